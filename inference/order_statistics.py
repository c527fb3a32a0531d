"""Exact distribution of the best of n draws, from the distribution of one draw.

    pi_n(x) = p0(x) (F^n - F-^n) / (F - F-),   F = P(r <= r(x)),  F- = P(r < r(x)) under p0

x has the highest reward of n independent draws, ties broken uniformly (Beirami et al. 2024,
arXiv 2401.01879; without ties n F^(n-1), Gui et al. 2024, arXiv 2406.00832). The ratio pi_n/p0
depends on x only through the rank of the reward, so best of n is the same for any increasing
function of r. All functions compute in float64.
"""

import math

import torch
from torch import Tensor

from inference.estimate import expectation
from model.common.checks import first_index, instance, whole_number

ROUNDING = 1e-9  # largest difference between two sums of the same probabilities


def best_of_n_log_ratio(cdf: Tensor, cdf_left: Tensor, n: int) -> Tensor:
    """log pi_n(x)/p0(x) = log (F^n - F-^n)/(F - F-), nats.

    Computed as F^(n-1) (1 - (1 - d)^n)/d with d = (F - F-)/F, without cancellation. At d = 0, where
    F and F- round to the same number, the limit is n F^(n-1).

    Args:
        cdf: F = P(r <= r(x)), any shape.
        cdf_left: F- = P(r < r(x)), the same shape.
        n: number of draws.

    Returns:
        The same shape, at most log n. -inf where F = 0 and n > 1.

    Raises:
        ValueError: if n < 1, or not 0 <= F- <= F <= 1.
    """
    n = _check_n(n)
    if instance("cdf", cdf, Tensor).shape != instance("cdf_left", cdf_left, Tensor).shape:
        shapes = f"cdf has shape {tuple(cdf.shape)} and cdf_left {tuple(cdf_left.shape)}"
        raise ValueError(f"{shapes}, expected the same")
    cdf, cdf_left = cdf.double(), cdf_left.double()
    ordered = (cdf_left >= 0) & (cdf_left <= cdf + ROUNDING) & (cdf <= 1 + ROUNDING)
    if (where := first_index(~ordered)) is not None:  # NaN is not ordered either
        raise ValueError(
            f"cdf_left = {cdf_left[where].item():.6g}, cdf = {cdf[where].item():.6g} at index "
            f"{where}, expected 0 <= cdf_left <= cdf <= 1: probabilities of being below, and of "
            "being below or level. Are the two swapped?"
        )
    step = ((cdf - cdf_left) / cdf).clamp(0, 1)  # d; NaN where F = 0, and NaN > 0 is False
    # sum_{i<n} (F-/F)^i
    series = torch.where(step > 0, -torch.expm1(n * torch.log1p(-step)) / step, float(n))
    return torch.xlogy(torch.full_like(cdf, n - 1), cdf) + series.log()


def best_of_n_kl(prob: Tensor, cdf: Tensor, cdf_left: Tensor, n: int) -> Tensor:
    """KL(pi_n || p0) = sum_x p0(x) rho log rho, rho = pi_n(x)/p0(x), exact, `[N]`, nats.

    Args:
        prob: `[L, N]`, p0 of each of L levels or responses, for N prompts.
        cdf: `[L, N]`, F, as `cdf_left` from `level_cdf`.
        cdf_left: `[L, N]`, F-.
        n: number of draws.
    """
    log_ratio = best_of_n_log_ratio(cdf, cdf_left, n)
    return expectation(_check_prob(prob, log_ratio.shape) * log_ratio.exp(), log_ratio)


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n-1)/n, nats: KL(pi_n || p0) without ties, an upper bound with ties."""
    n = _check_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate(prob: Tensor, cdf: Tensor, cdf_left: Tensor, n: int) -> Tensor:
    """P(r(x) > r(y)) + P(r(x) = r(y))/2 for x ~ pi_n and y ~ p0: sum_x pi_n(x) (F + F-)/2, `[N]`.

    Arguments as in `best_of_n_kl`. At most `best_of_n_win_rate_bound`.
    """
    log_ratio = best_of_n_log_ratio(cdf, cdf_left, n)
    prob = _check_prob(prob, log_ratio.shape) * log_ratio.exp()
    return (prob * (cdf.double() + cdf_left.double()) / 2).sum(0)


def best_of_n_win_rate_bound(n: int) -> float:
    """n/(n+1), the win rate without ties: each of n + 1 draws is the largest equally often."""
    return _check_n(n) / (n + 1)


def level_cdf(values: Tensor, prob: Tensor) -> tuple[Tensor, Tensor]:
    """F = P(r <= values) and F- = P(r < values) of a discrete distribution, `[L, N]` each.

    prob = 1/M at M draws gives the empirical distribution of the draws.

    Args:
        values: `[L, N]`, the reward of each response, in any order. Ties and -inf are allowed.
        prob: `[L, N]`, probabilities that sum to 1 for each prompt.

    Raises:
        ValueError: if a value is NaN, or a probability is not between 0 and 1.
    """
    instance("values", values, Tensor)
    if values.shape != instance("prob", prob, Tensor).shape or values.dim() != 2:
        fault = f"values has shape {tuple(values.shape)} and prob {tuple(prob.shape)}"
        raise ValueError(f"{fault}, expected [L, N] for both: L levels to each of N prompts")
    if (where := first_index(values.isnan())) is not None:
        expected = "expected numbers, or -inf for an impossible response"
        raise ValueError(f"values is NaN at index {where}, {expected}")
    # searchsorted wants the levels of a prompt in a row
    prob, values = _check_prob(prob, values.shape).T.contiguous(), values.T.contiguous()
    ordered, order = values.sort(-1)
    below = torch.nn.functional.pad(prob.gather(-1, order).cumsum(-1), (1, 0))  # [N, L + 1]
    cdf = below.gather(-1, torch.searchsorted(ordered, values, right=True))
    cdf_left = below.gather(-1, torch.searchsorted(ordered, values, right=False))
    return cdf.T.clamp(max=1), cdf_left.T.clamp(max=1)


def _check_n(n: int) -> int:
    return whole_number("n", n, why="best of n keeps one draw of every n")


def _check_prob(prob: Tensor, shape: torch.Size) -> Tensor:
    """Probabilities in float64."""
    if instance("prob", prob, Tensor).shape != shape:
        expected = f"expected {tuple(shape)}: one for each level"
        raise ValueError(f"prob has shape {tuple(prob.shape)}, {expected}")
    in_range = (prob >= 0) & (prob <= 1 + ROUNDING)
    if (where := first_index(~in_range)) is not None:
        number = f"{prob[where].item():.6g} at index {where}"
        raise ValueError(f"prob is {number}, expected probabilities, from 0 to 1")
    return prob.double()

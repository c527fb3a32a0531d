"""The best of n draws: its law, exactly, from the law of one draw.

    pi_n(x) = p0(x) (F^n - F-^n) / (F - F-),   F = P(r <= r(x)),  F- = P(r < r(x)) under p0

x is the draw with most evidence of n independent ones, ties broken uniformly (Beirami et al. 2024, arXiv 2401.01879; without
ties it is n F^(n-1), Gui et al. 2024, arXiv 2406.00832). The ratio pi_n/p0 depends on x only through the rank of its evidence,
so that best of n is the same for r and for any increasing function of r.

Everything here is a pure function of tensors, in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inference.estimate import expectation
from model.common.checks import first_index, instance, whole_number

ROUNDING = 1e-9  # two sums of the same probabilities may differ by this much


def best_of_n_log_ratio(cdf: Tensor, cdf_left: Tensor, n: int) -> Tensor:
    """log pi_n(x)/p0(x) = log (F^n - F-^n)/(F - F-), nats.

    It is written as F^(n-1) (1 - (1 - d)^n)/d with d = (F - F-)/F, in which nothing cancels; at d = 0, a level so fine that
    F and F- round to the same number, it takes its limit n F^(n-1).

    Args:
        cdf: F = P(r <= r(x)), any shape.
        cdf_left: F- = P(r < r(x)), the same shape.
        n: draws in a group, at least 1.

    Returns:
        The same shape, float64, at most log n. -inf where F = 0 (and n > 1): no draw is ever so low.

    Raises:
        ValueError: if n < 1, or not 0 <= F- <= F <= 1.
    """
    n = _group(n)
    if instance("cdf", cdf, Tensor).shape != instance("cdf_left", cdf_left, Tensor).shape:
        raise ValueError(
            f"cdf has shape {tuple(cdf.shape)} and cdf_left {tuple(cdf_left.shape)}, expected the same"
        )
    cdf, cdf_left = cdf.double(), cdf_left.double()
    disordered = (
        (cdf_left > cdf + ROUNDING)
        | (cdf_left < 0)
        | (cdf > 1 + ROUNDING)
        | cdf.isnan()
        | cdf_left.isnan()
    )
    if (where := first_index(disordered)) is not None:
        raise ValueError(
            f"cdf_left = {cdf_left[where].item():.6g}, cdf = {cdf[where].item():.6g} at index {where}, expected "
            "0 <= cdf_left <= cdf <= 1: probabilities of being below, and of being below or level. Are the two swapped?"
        )
    step = ((cdf - cdf_left) / cdf).clamp(0, 1)  # d; NaN where F = 0, which is not above 0 either
    series = torch.where(
        step > 0, -torch.expm1(n * torch.log1p(-step)) / step, float(n)
    )  # sum_{i<n} (F-/F)^i
    return torch.xlogy(torch.full_like(cdf, n - 1), cdf) + series.log()


def best_of_n_kl(prob: Tensor, cdf: Tensor, cdf_left: Tensor, n: int) -> Tensor:
    """KL(pi_n || p0) = sum_x p0(x) rho log rho, rho = pi_n(x)/p0(x): exact, where `best_of_n_kl_bound` is a bound.

    Args:
        prob: `[L, N]`, p0 of each of L levels, or of each of L responses, for N prompts.
        cdf: `[L, N]`, F there (see `level_cdf`).
        cdf_left: `[L, N]`, F- there.
        n: draws in a group.

    Returns:
        `[N]`, nats.
    """
    log_ratio = best_of_n_log_ratio(cdf, cdf_left, n)
    return expectation(_checked(prob, log_ratio.shape) * log_ratio.exp(), log_ratio)


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n-1)/n, nats: KL(pi_n || p0) if no two responses tie, and a bound on it from above if they do.

    Beirami et al. 2024, arXiv 2401.01879.
    """
    n = _group(n)
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate(prob: Tensor, cdf: Tensor, cdf_left: Tensor, n: int) -> Tensor:
    """P(r(x) > r(y)) + P(r(x) = r(y))/2 for x ~ pi_n and y ~ p0: sum_x pi_n(x) (F + F-)/2.

    Takes what `best_of_n_kl` takes. Returns `[N]`, a probability, at most `best_of_n_win_rate_bound`.
    """
    log_ratio = best_of_n_log_ratio(cdf, cdf_left, n)
    return (
        _checked(prob, log_ratio.shape) * log_ratio.exp() * (cdf.double() + cdf_left.double()) / 2
    ).sum(0)


def best_of_n_win_rate_bound(n: int) -> float:
    """n/(n+1), the win rate if no two responses tie: the largest of n + 1 independent draws is any of them alike."""
    n = _group(n)
    return n / (n + 1)


def level_cdf(values: Tensor, prob: Tensor) -> tuple[Tensor, Tensor]:
    """F = P(r <= values) and F- = P(r < values) at each value, of a discrete law. -inf is simply the lowest level.

    With prob = 1/M at M draws it is the empirical law of those draws.

    Args:
        values: `[L, N]`, the evidence of each response, in any order, ties allowed.
        prob: `[L, N]`, their probabilities; each prompt's sum to 1.

    Returns:
        F and F-, `[L, N]` each, float64.

    Raises:
        ValueError: if a value is NaN, which has no place in the order, or a probability no number from 0 to 1.
    """
    if (
        instance("values", values, Tensor).shape != instance("prob", prob, Tensor).shape
        or values.dim() != 2
    ):
        raise ValueError(
            f"values has shape {tuple(values.shape)} and prob {tuple(prob.shape)}, expected [L, N] for both: L levels to each "
            "of N prompts"
        )
    if (where := first_index(values.isnan())) is not None:
        raise ValueError(
            f"values is NaN at index {where}, expected numbers, or -inf for an impossible response"
        )
    prob = _checked(prob, values.shape)
    values, prob = (
        values.T.contiguous(),
        prob.T.contiguous(),
    )  # a prompt's levels in a row, for searchsorted
    ordered, order = values.sort(-1)
    below = torch.nn.functional.pad(prob.gather(-1, order).cumsum(-1), (1, 0))  # [N, L + 1]
    cdf = below.gather(-1, torch.searchsorted(ordered, values, right=True))
    cdf_left = below.gather(-1, torch.searchsorted(ordered, values, right=False))
    return cdf.T.clamp(max=1), cdf_left.T.clamp(max=1)


def _group(n: int) -> int:
    return whole_number("n", n, why="best of n keeps one draw of every n")


def _checked(prob: Tensor, shape: torch.Size) -> Tensor:
    """Probabilities in float64, if they are from 0 to 1."""
    if instance("prob", prob, Tensor).shape != shape:
        raise ValueError(
            f"prob has shape {tuple(prob.shape)}, expected {tuple(shape)}: one for each level"
        )
    odd = ~((prob >= 0) & (prob <= 1 + ROUNDING))  # so that NaN is odd too
    if (where := first_index(odd)) is not None:
        raise ValueError(
            f"prob is {prob[where].item():.6g} at index {where}, expected probabilities, from 0 to 1"
        )
    return prob.double()

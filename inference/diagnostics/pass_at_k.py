"""pass@k: probability that one or more of k draws succeed (Chen et al. 2021, arXiv 2107.03374).

    pass@k       = 1 - (1 - p)^k,                  p the probability of success
    from n draws = 1 - C(n - c, k) / C(n, k),      c of n draws succeed; unbiased

1 - (1 - c/n)^k, with the share of successes in place of p, is biased low.
"""

import torch
from torch import Tensor

from inference.estimate import Estimate, check_draws
from model.common.checks import whole_number


def pass_at_k(success: Tensor, k: int) -> Estimate:
    """Estimate of pass@k from independent draws, averaged over prompts; unbiased.

    The standard error is by the delta method, for each prompt the larger one of two rates: the
    share of successes, and the share with one success and one failure more. At a share of 0 or 1
    the first alone would be 0.

    Args:
        success: `[n, N]`, 1 for a success and 0 for a failure, n draws for each of N prompts.
        k: number of draws behind pass@k, at most n.

    Raises:
        ValueError: if k exceeds the number of draws, or a value is neither 0 nor 1.
    """
    success = check_draws("success", success)
    if bool(((success != 0) & (success != 1)).any()):
        raise ValueError("success has values other than 0 and 1, expected one of the two")
    num_draws = len(success)
    k = whole_number("k", k, at_most=num_draws, why="draws, of which there are no more")
    failures = num_draws - success.sum(0)  # [N]
    # C(m, k) / C(n, k) = prod_i (m - i) / (n - i), with a factor of 0 for m < k
    steps = torch.arange(k, dtype=torch.float64, device=success.device)[:, None]
    none_of_k = ((failures - steps) / (num_draws - steps)).prod(0)
    rates = torch.stack([success.mean(0), (success.sum(0) + 1) / (num_draws + 2)])  # [2, N]
    slope = k * (1 - rates) ** (k - 1)
    variance = (slope.square() * rates * (1 - rates) / num_draws).amax(0)  # [N]
    error = variance.sum().sqrt().item() / len(variance)
    return Estimate.exact(1 - none_of_k)._replace(standard_error=error)


def exact_pass_at_k(success: Tensor, prob: Tensor, k: int) -> Tensor:
    """pass@k of a distribution over listed responses, `[N]`.

    Args:
        success: `[S, N]`, 1 for a success and 0 for a failure.
        prob: `[S, N]`, probability of each response.
        k: number of draws behind pass@k.
    """
    return 1 - (1 - (success * prob).sum(0)) ** whole_number("k", k)

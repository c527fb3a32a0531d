"""Best of n: of n draws, keep the draw with the highest likelihood.

    x_1 .. x_n ~ p0,   x = argmax_i log likelihood(x_i);   pi_n(x)/p0(x) = (F^n - F-^n)/(F - F-)

The baseline of all alignment methods, not a sampler of p*: its distribution pi_n, the KL from p0
and the win rate are known exactly (`order_statistics`). n plays the part of 1/beta.
"""

import torch
from torch import Tensor

from inference.order_statistics import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_win_rate,
    best_of_n_win_rate_bound,
    level_cdf,
)
from inference.programs import Program, log_likelihood_at
from inference.response_site import SameResponses
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import draw_chunks
from model import Prompts
from model.common.checks import whole_number
from model.prior.division import by_all_ranks


@by_all_ranks
def best_of_n(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    n: int = 16,
    chunk: int = 256,
) -> Posterior:
    """Draw groups of n from the guide or the prior, and keep the best of each group.

    Args:
        model, prompts, guide, chunk: See `importance_sampling`. The sum of the factors ranks.
        num_samples: Number of draws for each prompt; a last group that is not full is not drawn.
        n: Number of draws in a group. Ties are broken uniformly at random.

    Returns:
        `num_samples // n` independent draws from pi_n, of equal weight, without an estimate of Z.
        Where a whole group is impossible, an impossible response is kept. Diagnostics: `kl`,
        KL(pi_n || proposal), nats, and its bound `kl_bound` = log n - (n-1)/n; `win_rate` against a
        draw from the proposal, with ties as half, and its bound `win_rate_bound` = n/(n+1). Both
        are computed from the empirical distribution of all draws: consistent, and too low unless
        the draws are many times n.
    """
    num_samples, n = whole_number("num_samples", num_samples), whole_number("n", n)
    num_groups = num_samples // n
    if num_groups < 1:
        expected = "1 <= n <= num_samples: at least one group of n"
        raise ValueError(f"num_samples = {num_samples} and n = {n}, expected {expected}")
    with SameResponses():
        parts = list(draw_chunks(model, guide, prompts, num_groups * n, chunk=chunk))
        log_likelihood = torch.cat([log_likelihood_at(model, prompts, part) for part in parts])
    check_support(log_likelihood, prompts.texts)
    grouped = log_likelihood.view(num_groups, n, -1)  # [G, n, N]
    is_best = grouped == grouped.amax(1, keepdim=True)
    best = torch.rand_like(grouped).masked_fill(~is_best, -1.0).argmax(1)  # [G, N]
    groups = torch.cat(parts).unflatten(0, (num_groups, n))  # [G, n, N, T]
    index = best[:, None, :, None].expand(-1, -1, -1, groups.shape[-1])
    response = groups.gather(1, index).squeeze(1)
    log_weight = torch.zeros_like(best, dtype=torch.double)
    return Posterior(response, log_weight, None, _diagnostics(log_likelihood, n))


def _diagnostics(log_likelihood: Tensor, n: int) -> dict[str, Tensor]:
    """KL and win rate from the log likelihoods of M draws `[M, N]`, each of probability 1/M."""
    prob = torch.full_like(log_likelihood, 1 / len(log_likelihood))
    cdf, cdf_left = level_cdf(log_likelihood, prob)
    constant = log_likelihood.new_ones(log_likelihood.shape[1])
    return {
        "kl": best_of_n_kl(prob, cdf, cdf_left, n),
        "kl_bound": constant * best_of_n_kl_bound(n),
        "win_rate": best_of_n_win_rate(prob, cdf, cdf_left, n),
        "win_rate_bound": constant * best_of_n_win_rate_bound(n),
    }

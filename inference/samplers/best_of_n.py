"""Best of n: of n draws, keep the one with most evidence.

    x_1 .. x_n ~ p0,   x = argmax_i r(x_i);   pi_n(x)/p0(x) = (F^n - F-^n)/(F - F-)

Not a sampler of p*, but the baseline that every alignment method is held against: its law pi_n, the distance from p0 that it
travels and its win rate are known exactly (`order_statistics`). n plays the part of 1/beta.
"""

from __future__ import annotations

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
from inference.samplers.proposal import draw
from model import Prompts
from model.common.checks import whole_number
from model.common.thread_lock import one_thread


@torch.no_grad()
@one_thread
def best_of_n(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    n: int = 16,
    chunk: int = 256,
) -> Posterior:
    """Draw groups of n from the guide, or from the prior if there is none, and keep the best of each group.

    Args:
        model: a Pyro program with a site `response` and factors; what is best is told by their sum r/beta.
        prompts: N prompts.
        guide: a Pyro program that samples the same site. None: the prior.
        num_samples: the budget, draws for each prompt; those that would not fill a group are not drawn.
        n: draws in a group. Ties are broken uniformly at random.
        chunk: draws handled at a time, for each prompt.

    Returns:
        `response` `[num_samples // n, N, T]`, independent draws from pi_n; `log_weight` 0; `log_z` None. An impossible
        response (evidence -inf) is simply the worst, and is kept where a whole group is impossible. Diagnostics, `[N]` each:
        `kl`, KL(pi_n || proposal) in nats, with its bound `kl_bound` = log n - (n-1)/n; `win_rate` against a draw from the
        proposal, ties counting half, with its bound `win_rate_bound` = n/(n+1). Both are plugged in from the empirical law
        of the evidence of all draws: consistent; too low while the draws are not many times n.

    Raises:
        ValueError: if n < 1, or the budget does not fill one group.
        NoSupportError: if all draws for a prompt are impossible.
    """
    num_samples, n = whole_number("num_samples", num_samples), whole_number("n", n)
    num_groups = num_samples // n
    if num_groups < 1:
        raise ValueError(
            f"num_samples = {num_samples} and n = {n}, expected 1 <= n <= num_samples: at least one group of n"
        )
    with SameResponses():
        role, proposal = ("model", model) if guide is None else ("guide", guide)
        parts = list(draw(proposal, prompts, num_groups * n, chunk=chunk, role=role))
        log_likelihood = torch.cat([log_likelihood_at(model, prompts, part) for part in parts])
    response = torch.cat(parts)
    check_support(
        log_likelihood,
        prompts.texts,
        "draw more, train a guide towards the evidence, or soften the evidence",
    )
    best = _best(log_likelihood.view(num_groups, n, -1))  # [G, N]
    grouped = response.view(num_groups, n, *response.shape[1:])  # [G, n, N, T]
    kept = grouped.gather(1, best[:, None, :, None].expand(-1, -1, -1, response.shape[-1])).squeeze(
        1
    )
    return Posterior(
        kept, torch.zeros_like(best, dtype=torch.double), None, _diagnostics(log_likelihood, n)
    )


def _best(log_likelihood: Tensor) -> Tensor:
    """Which of n draws has most evidence, ties broken uniformly: `[G, n, N]` -> `[G, N]`."""
    is_best = log_likelihood == log_likelihood.amax(1, keepdim=True)
    return torch.rand_like(log_likelihood).masked_fill(~is_best, -1.0).argmax(1)


def _diagnostics(log_likelihood: Tensor, n: int) -> dict[str, Tensor]:
    """From the evidence of all draws `[M, N]`, each of probability 1/M."""
    prob = torch.full_like(log_likelihood, 1 / len(log_likelihood))
    cdf, cdf_left = level_cdf(log_likelihood, prob)
    num_prompts = log_likelihood.shape[1]
    return {
        "kl": best_of_n_kl(prob, cdf, cdf_left, n),
        "kl_bound": log_likelihood.new_full((num_prompts,), best_of_n_kl_bound(n)),
        "win_rate": best_of_n_win_rate(prob, cdf, cdf_left, n),
        "win_rate_bound": log_likelihood.new_full((num_prompts,), best_of_n_win_rate_bound(n)),
    }

"""Quasi-rejection sampling: rejection with a bound that weights may exceed, and its error.

    p_b(x)    = min(P(x), b q(x)) / Z_b,   P = p0 likelihood
    P(accept) = Z_b/b,   TV(p*, p_b) <= 1 - Z_b/Z

Eikema et al. 2022, arXiv 2112.05702. Responses with w > b are too rare. A larger b is nearer to p*
and costs more draws.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from inference.estimate import check_numbers, expectation
from inference.programs import Program
from inference.response_site import check_arguments
from inference.samplers.posterior import NoSupportError, Posterior, check_support
from inference.samplers.proposal import draw_and_weigh
from inference.samplers.rejection import accept, check_log_bound
from model import Prompts
from model.common.thread_lock import one_thread
from model.prior.division import by_all_ranks

PILOT_SHARE = 0.25
PILOT_QUANTILE = 0.99


@by_all_ranks
def quasi_rejection_sampling(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    log_bound: float | Tensor | None = None,
    chunk: int = 256,
) -> Posterior:
    """Draw from the guide or the prior, and accept each draw with probability min(1, w/b).

    Args:
        model, prompts, guide, num_samples, chunk: See `importance_sampling`.
        log_bound: log b, nats, a number or `[N]`. None for the 0.99 quantile of the log weights of
            a pilot, the first quarter of the draws, for each prompt. The pilot is not returned: a
            bound that depended on the draws it judges would bias them.

    Returns:
        All M draws after the pilot, with `log_weight` 0 if accepted and -inf if rejected; accepted
        draws are independent draws from p_b given b. exp(log_z) is as of `rejection_sampling`.
        Diagnostics: `log_bound`, and the fields of `QuasiRejection`, estimated from the M weights:
        consistent, and blind to weights that no draw has.
    """
    check_arguments(model, prompts, "model")
    if log_bound is not None:
        log_bound = check_log_bound(log_bound, len(prompts))
    response, log_weight = draw_and_weigh(model, prompts, guide, num_samples, chunk=chunk)
    num_pilot = 0
    if log_bound is None:
        num_pilot = math.ceil(PILOT_SHARE * num_samples)
        if num_pilot == num_samples:
            fix = "draw more, or, in Python, pass `log_bound`"
            raise ValueError(f"num_samples = {num_samples} leaves no draw after the pilot: {fix}")
        pilot = log_weight[:num_pilot]
        fix = "these are the pilot's: draw more, use a guide, or, in Python, pass `log_bound`"
        check_support(pilot, prompts.texts, fix)
        # an order statistic, as interpolation towards -inf has no result
        quantile = pilot.quantile(PILOT_QUANTILE, dim=0, interpolation="higher")
        log_bound = torch.where(quantile.isneginf(), pilot.amax(0), quantile)
    log_bound = torch.as_tensor(log_bound, dtype=log_weight.dtype, device=log_weight.device)
    log_bound = log_bound.expand(len(prompts))
    posterior = accept(response, log_weight, log_bound, prompts, num_skipped=num_pilot)
    log_weight = log_weight[num_pilot:]
    # M draws are a table of M equally likely responses under q
    log_proposal = torch.full_like(log_weight, -math.log(len(log_weight)))
    errors = quasi_rejection(log_weight + log_proposal, log_proposal, log_bound)
    return replace(posterior, diagnostics={"log_bound": log_bound, **errors._asdict()})


class QuasiRejection(NamedTuple):
    """Cost and error of a bound b, `[N]` each."""

    acceptance: Tensor  # Z_b/b, the probability to accept a draw
    total_variation: Tensor  # TV(p*, p_b), between 0 and 1
    total_variation_bound: Tensor  # 1 - Z_b/Z, an upper bound on `total_variation`
    kl: Tensor  # KL(p* || p_b), nats


@one_thread
def quasi_rejection(
    log_target: Tensor, log_proposal: Tensor, log_bound: float | Tensor
) -> QuasiRejection:
    """Cost of p_b and its distance from p*, summed over a table of responses.

    Args:
        log_target: `[S, N]` (or `[S]`), log P, nats; not normalised, -inf where impossible.
        log_proposal: `[S, N]`, log q, nats, normalised.
        log_bound: log b, nats, a number or `[N]`.
    """
    log_target = check_numbers("log_target", log_target)
    log_proposal = check_numbers("log_proposal", log_proposal)
    if log_target.shape != log_proposal.shape or not log_target.numel():
        fault = f"log_target has shape {tuple(log_target.shape)}"
        raise ValueError(f"{fault} and log_proposal {tuple(log_proposal.shape)}, expected the same")
    log_bound = check_log_bound(log_bound, log_target[0].numel())
    log_z = log_target.logsumexp(0)
    if bool(log_z.isneginf().any()):
        raise NoSupportError("log_target is -inf for all responses: there is no posterior")
    log_least = torch.minimum(log_target, log_bound + log_proposal)  # log min(P, b q)
    log_z_b = log_least.logsumexp(0)
    log_p, log_p_b = log_target - log_z, log_least - log_z_b
    p = log_p.exp()
    return QuasiRejection(
        acceptance=(log_z_b - log_bound).exp(),
        total_variation=0.5 * (p - log_p_b.exp()).abs().sum(0),
        total_variation_bound=1 - (log_z_b - log_z).exp(),
        kl=expectation(p, log_p - log_p_b),
    )

"""Rejection sampling: exact draws from the posterior, if the weights are bounded.

    x ~ q,   accepted with probability w(x)/b,   w(x) = p0(x) exp(r(x)/beta) / q(x) <= b;   P(accept) = Z/b

(von Neumann 1951.) Without a guide w = exp(r/beta), and a bound on the reward is a bound on w. An accepted draw is a draw from
p*, whatever q: a better guide is not more exact but cheaper. Rejected draws still count towards the estimate of Z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.programs import Program
from inference.response_site import check_arguments
from inference.samplers.acceptance import accepted_at, check_bound, check_log_bound
from inference.samplers.posterior import NoSupportError, Posterior, check_support
from inference.samplers.proposal import draw_and_weigh
from model import AlignmentModel, Prompts
from model.common.thread_lock import one_thread


@torch.no_grad()
@one_thread
def rejection_sampling(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    log_bound: float | Tensor | None = None,
    chunk: int = 256,
) -> Posterior:
    """Draw from the guide, or from the prior if there is none, and keep each draw with probability w/b.

    Args:
        model: a Pyro program with a site `response` and factors.
        prompts: N prompts.
        guide: a Pyro program that samples the same site, the proposal q. None: the prior.
        num_samples: M, draws for each prompt; about M Z/b of them are kept.
        log_bound: log b, nats, at least every log w, for all prompts or for each `[N]`. None:
            `AlignmentModel.log_likelihood_bound`, where that is known and the prior proposes.
        chunk: draws handled at a time, for each prompt.

    Returns:
        `response` `[M, N, T]`, all draws; `log_weight` `[M, N]`, 0 for the accepted, which are independent draws from p*, and
        -inf for the rejected; `log_z` `[N]`, nats, from the weights of all draws, whose exp is unbiased for Z. Diagnostics,
        `[N]`: `acceptance`, unbiased for Z/b.

    Raises:
        ValueError: if no bound is known.
        LooseBoundError: if a draw's weight exceeds the bound.
        NoSupportError: if no draw was accepted for a prompt.
    """
    check_arguments(model, prompts, "model")
    if log_bound is None:
        log_bound = _known_bound(model, guide, prompts)
    log_bound = check_log_bound(log_bound, len(prompts))
    draws = draw_and_weigh(model, prompts, guide=guide, num_samples=num_samples, chunk=chunk)
    check_bound(draws.log_weight, log_bound, prompts.texts)
    accepted = accept(draws.log_weight, log_bound, prompts)
    return Posterior(
        draws.response,
        torch.where(accepted, 0.0, -torch.inf).double(),
        log_mean(draws.log_weight),
        {"acceptance": accepted.double().mean(0)},
    )


def accept(log_weight: Tensor, log_bound: float | Tensor, prompts: Prompts) -> Tensor:
    """Accept each of M draws with probability min(1, w/b). Returns booleans `[M, N]`.

    Args:
        log_weight: `[M, N]`, nats.
        log_bound: log b, nats, for all prompts or for each `[N]`.
        prompts: N prompts, for the error.

    Raises:
        NoSupportError: if no draw was accepted for a prompt: because none is possible, or because b is so far above them.
    """
    check_support(
        log_weight,
        prompts.texts,
        "draw more, train a guide towards the evidence, or soften the evidence",
    )
    accepted = accepted_at(log_weight, log_bound)
    log_share = log_mean(
        (log_weight - log_bound).clamp(max=0)
    ).tolist()  # of the probability to be accepted
    for text, some, log_one in zip(prompts.texts, accepted.any(0).tolist(), log_share, strict=True):
        if not some:
            raise NoSupportError(
                f"none of {len(accepted)} draws for {text!r} was accepted: at this bound about one in exp({-log_one:.1f}) is. "
                "Draw more, lower `log_bound` if it is not tight, or use a guide nearer to the posterior"
            )
    return accepted


def _known_bound(model: Program, guide: Program | None, prompts: Prompts) -> float | Tensor:
    """The bound on r/beta that the model states: it bounds w if the prior proposes."""
    if guide is not None:
        why = "a guide proposes, and a bound on the evidence is none on p0 exp(r/beta)/q"
    elif not isinstance(model, AlignmentModel):
        why = f"the model is a {type(model).__name__}, which states none"
    elif (bound := model.log_likelihood_bound(prompts)) is None:
        why = "not all of the model's evidence has an `upper_bound`"
    else:
        return bound
    raise ValueError(
        f"rejection sampling needs a bound on the log-weights, and {why}: pass `log_bound`, in nats, or use "
        "`quasi_rejection_sampling`, which needs none and says how far from the posterior it is"
    )

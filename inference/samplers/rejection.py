"""Rejection sampling: exact draws from the posterior, if the weights are bounded.

    x ~ q,   accepted with probability w(x)/b,   w = p0 likelihood / q <= b;   P(accept) = Z/b

(von Neumann 1951.) Without a guide w is the likelihood, so that an upper bound on the reward gives
b. A better guide costs fewer draws.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.programs import Program
from inference.response_site import check_arguments
from inference.samplers.posterior import NoSupportError, Posterior, check_support
from inference.samplers.proposal import draw_and_weigh
from model import AlignmentModel, Prompts
from model.common.checks import finite, first_index
from model.prior.division import by_all_ranks

ROUNDING = 1e-6  # relative: a reward computed in float32 may exceed its bound by this much


class LooseBoundError(ValueError):
    """A log weight exceeds the bound, so that accepted responses are not from the posterior."""


@by_all_ranks
def rejection_sampling(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    log_bound: float | Tensor | None = None,
    chunk: int = 256,
) -> Posterior:
    """Draw from the guide or the prior, and accept each draw with probability w/b.

    Args:
        model, prompts, guide, num_samples, chunk: See `importance_sampling`.
        log_bound: log b, nats, above all log w, a number or `[N]`. None for
            `AlignmentModel.log_likelihood_bound`, if that is known and the prior proposes.

    Returns:
        All draws, with `log_weight` 0 if accepted and -inf if rejected; accepted draws are
        independent draws from p*. exp(log_z), from all draws, is unbiased for Z but for runs that
        accept no draw and raise. Diagnostics: `acceptance`, unbiased for Z/b with 0 in such runs.

    Raises:
        LooseBoundError: If a weight exceeds the bound.
        NoSupportError: If no draw to a prompt is accepted.
    """
    check_arguments(model, prompts, "model")
    if log_bound is None:
        log_bound = _known_bound(model, guide, prompts)
    log_bound = check_log_bound(log_bound, len(prompts))
    response, log_weight = draw_and_weigh(model, prompts, guide, num_samples, chunk=chunk)
    check_bound(log_weight, log_bound, prompts.texts)
    return accept(response, log_weight, log_bound, prompts)


def _known_bound(model: Program, guide: Program | None, prompts: Prompts) -> float | Tensor:
    """Bound on the log likelihood that the model states, which bounds w if the prior proposes."""
    if guide is not None:
        why = "a guide proposes, and a bound on the likelihood is none on p0 likelihood / q"
    elif not isinstance(model, AlignmentModel):
        why = f"the model is a {type(model).__name__}, which states none"
    elif (bound := model.log_likelihood_bound(prompts)) is None:
        why = "not all rewards and factors of the model have an `upper_bound`"
    else:
        return bound
    fix = "use `quasi_rejection_sampling`, which needs none, or, in Python, pass `log_bound`"
    raise ValueError(f"rejection sampling needs a bound on the log weights, and {why}: {fix}")


def check_log_bound(log_bound: object, num_prompts: int) -> float | Tensor:
    """Return log b, a number or `[N]`, nats; NaN and infinity, which bound nothing, are refused."""
    name = "the bound on the log weights"
    if not isinstance(log_bound, Tensor):
        return finite(name, log_bound)
    if log_bound.shape not in ((), (num_prompts,)):
        expected = f"one number, or one for each of {num_prompts} prompts"
        raise ValueError(f"{name} has shape {tuple(log_bound.shape)}, expected {expected}")
    if log_bound.is_complex():
        raise ValueError(f"{name} has type {log_bound.dtype}, expected real numbers")
    if bool((infinite := ~log_bound.isfinite()).any()):
        raise ValueError(f"{name} is {log_bound[infinite][0].item()}, expected finite numbers")
    return log_bound


def accepted_at(log_weight: Tensor, log_bound: float | Tensor) -> Tensor:
    """Accept draws of log weight `[M, N]` with probability min(1, w/b): booleans `[M, N]`."""
    uniform = torch.rand(log_weight.shape, dtype=torch.float64, device=log_weight.device)
    return uniform.log() < log_weight - torch.as_tensor(log_bound, device=log_weight.device)


def check_bound(log_weight: Tensor, log_bound: float | Tensor, texts: Sequence[str]) -> None:
    """Raise `LooseBoundError` if a log weight `[M, N]` of the N prompts `texts` is above log b."""
    bounds = torch.as_tensor(log_bound, dtype=torch.double).expand(len(texts)).tolist()
    for text, highest, bound in zip(texts, log_weight.amax(0).tolist(), bounds, strict=True):
        if highest > bound + ROUNDING * max(1.0, abs(bound)):
            raise LooseBoundError(
                f"a response to {text!r} has log weight {highest:.6g}, above the bound of "
                f"{bound:.6g}: correct the reward's `upper_bound`, use "
                "`quasi_rejection_sampling`, or, in Python, pass a larger `log_bound`"
            )


def accept(
    response: Tensor,
    log_weight: Tensor,
    log_bound: float | Tensor,
    prompts: Prompts,
    num_skipped: int = 0,
) -> Posterior:
    """Accept draws `[M, N, T]` of log weight `[M, N]`, nats, with probability min(1, w/b).

    The first `num_skipped` draws count towards log Z alone.

    Returns:
        All draws after the skipped ones, with weight 1 if accepted and 0 if not, and `acceptance`
        among the diagnostics. log Z is from the weights of all draws.
    """
    log_z_hat, log_weight = log_mean(log_weight), log_weight[num_skipped:]
    check_support(log_weight, prompts.texts)
    accepted = accepted_at(log_weight, log_bound)
    if (place := first_index(~accepted.any(0))) is not None:
        log_chance = log_mean(log_weight - log_bound)[place].item()
        raise NoSupportError(
            f"none of {len(accepted)} draws for {prompts.texts[place[0]]!r} was accepted: about "
            f"one in exp({-log_chance:.1f}) is. Draw more, use a better guide, or, in Python, "
            "lower `log_bound`"
        )
    return Posterior(
        response[num_skipped:],
        torch.where(accepted, 0.0, -torch.inf).double(),
        log_z_hat,
        {"acceptance": accepted.double().mean(0)},
    )

"""Rejection sampling: exact draws from the posterior, if the weights are bounded.

    x ~ q,   accepted with probability w(x)/b,   w = p0 likelihood / q <= b;   P(accept) = Z/b

(von Neumann 1951.) Without a guide w is the likelihood, so that an upper bound on the reward gives
b. A better guide costs fewer draws.
"""

from torch import Tensor

from inference.programs import Program
from inference.response_site import check_arguments
from inference.samplers.acceptance import accept, check_bound, check_log_bound
from inference.samplers.posterior import Posterior
from inference.samplers.proposal import draw_and_weigh
from model import AlignmentModel, Prompts
from model.prior.division import by_all_ranks


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
        independent draws from p*. exp(log_z), from all draws, is unbiased for Z. Diagnostics:
        `acceptance`, unbiased for Z/b.

    Raises:
        LooseBoundError: If a weight exceeds the bound.
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

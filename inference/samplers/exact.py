"""The posterior itself: every response, weighted by its joint probability.

    w(x) = p0(x) exp(r(x)/beta),   Z = sum_x w(x)

Exact, for a model whose responses can be listed. It returns what any sampler returns, so that an experiment can be run
against the truth by changing a name.
"""

from __future__ import annotations

from inference.enumeration import Enumeration
from inference.programs import Program, response_distribution
from inference.samplers.posterior import NoSupportError, Posterior
from model import NotEnumerableError, Prompts


def enumerate_posterior(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int | None = None,
) -> Posterior:
    """List the support: log_weight = log p0 + r/beta, log_z = log Z, exact in float64.

    Args:
        model: a Pyro program whose `response` site can list its support.
        prompts: N prompts.
        guide: not used, as nothing is proposed. It is here because all samplers are called alike.
        num_samples: not used, as all responses are listed, whatever the budget. Here for the same reason.

    Returns:
        `response` `[S, N, T]`, every one once; `log_weight` `[S, N]`, nats; `log_z` `[N]`, nats. No diagnostics.

    Raises:
        NotEnumerableError: if there are more than a million responses, or the distribution cannot list them.
        NoSupportError: if the evidence rules out every response to a prompt: Z = 0.
    """
    distribution = response_distribution(model, prompts, role="model")
    if not distribution.has_enumerate_support:
        raise NotEnumerableError(
            f"the `response` site is of type {type(distribution).__name__}, which cannot list its support: use "
            "`importance_sampling`, or a distribution with `enumerate_support`, such as `ResponseDistribution`"
        )
    try:
        truth = Enumeration(model, prompts)
    except ZeroDivisionError as error:
        raise NoSupportError(
            f"{error}. Soften the evidence: a finite penalty in place of -inf"
        ) from error
    return Posterior(truth.support, truth.log_joint, truth.log_z)

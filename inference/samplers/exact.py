"""The exact posterior: every response, weighted by its joint probability.

    w(x) = p0(x) likelihood(x),   Z = sum_x w(x)

The result is that of any sampler, so that an experiment runs against the truth by a change of name.
"""

from inference.enumeration import Enumeration
from inference.programs import Program, response_distribution
from inference.samplers.posterior import NoSupportError, Posterior
from model import NotEnumerableError, Prompts
from model.prior.division import by_all_ranks


@by_all_ranks
def enumerate_posterior(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int | None = None,
) -> Posterior:
    """List every response once: log_weight = log p0 + log likelihood, log_z exact in float64.

    Args:
        model: Pyro program whose `response` site can list its support.
        guide, num_samples: Not used. All samplers are called alike.

    Raises:
        NotEnumerableError: If there are more than a million responses, or the site lists none.
    """
    distribution = response_distribution(model, prompts, role="model")
    if not distribution.has_enumerate_support:
        raise NotEnumerableError(
            f"the `response` site is of type {type(distribution).__name__}, which cannot list its "
            "support: use `importance_sampling`, or a `ResponseDistribution`"
        )
    try:
        truth = Enumeration(model, prompts)
    except ZeroDivisionError as error:
        fix = "Soften the constraint: a finite penalty in place of -inf"
        raise NoSupportError(f"{error}. {fix}") from error
    return Posterior(truth.support, truth.log_joint, truth.log_z, exact=True)

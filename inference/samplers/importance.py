"""Importance sampling: draws from the guide, weighted by how much more the posterior wants them.

    x_m ~ q,   w_m = p0(x_m) likelihood(x_m) / q(x_m),   Z_hat = 1/M sum_m w_m

Owen 2013, "Monte Carlo theory, methods and examples", chapter 9. `Posterior.resample` makes
unweighted draws: sampling importance resampling (Rubin 1987). The guide must be able to draw all
responses of the posterior.
"""

from inference.estimate import log_mean
from inference.importance_weights import effective_sample_size, pareto_k
from inference.programs import Program
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import draw_and_weigh
from model import Prompts
from model.prior.division import by_all_ranks


@by_all_ranks
def importance_sampling(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    chunk: int = 256,
) -> Posterior:
    """Self-normalised importance sampling from the guide, or from the prior without a guide.

    Args:
        model: Pyro program with the site `response` and factors.
        prompts: N prompts.
        guide: Pyro program with the site `response`, the proposal q; None for the prior.
        num_samples: M, number of draws for each prompt.
        chunk: Largest number of draws computed at a time, for each prompt.

    Returns:
        exp(log_z) is unbiased for Z (`NoSupportError`, if all draws to a prompt are impossible,
        counts as 0). Means are consistent, with bias O(1/M). Diagnostics:
        `effective_sample_size`, out of M; `pareto_k`, above 0.7 of which no estimate is reliable.
    """
    response, log_weight = draw_and_weigh(model, prompts, guide, num_samples, chunk=chunk)
    check_support(log_weight, prompts.texts)
    diagnostics = {
        "effective_sample_size": effective_sample_size(log_weight),
        "pareto_k": pareto_k(log_weight),
    }
    return Posterior(response, log_weight, log_mean(log_weight), diagnostics)

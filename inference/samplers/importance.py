"""Importance sampling: draw from the guide, weigh by how much the posterior wants each draw.

    x_m ~ q,   w_m = p0(x_m) exp(r(x_m)/beta) / q(x_m),   Z_hat = 1/M sum_m w_m

The weights are normalised by their own sum, so that Z need not be known (Owen 2013, "Monte Carlo theory, methods and
examples", chapter 9). `Posterior.resample` turns the weighted draws into unweighted ones: sampling importance resampling
(Rubin 1987). The guide must be able to draw whatever the posterior can.
"""

from __future__ import annotations

from inference.estimate import log_mean
from inference.importance_weights import effective_sample_size, pareto_k
from inference.programs import Program
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import draw_and_weigh
from model import Prompts
from model.common.thread_lock import one_thread


@one_thread
def importance_sampling(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    chunk: int = 256,
) -> Posterior:
    """Self-normalised importance sampling from the guide, or from the prior if there is none.

    Args:
        model: a Pyro program with a site `response` and factors.
        prompts: N prompts.
        guide: a Pyro program that samples the same site, the proposal q. None: the prior, so that log w = r/beta.
        num_samples: M, draws for each prompt.
        chunk: draws handled at a time, for each prompt.

    Returns:
        `response` `[M, N, T]`; `log_weight` `[M, N]`, log w, nats; `log_z` `[N]`, nats, whose exp is unbiased for Z.
        Expectations under it are biased by O(1/M), and consistent. Diagnostics, `[N]` each: `effective_sample_size`, out
        of M; `pareto_k`, above 0.7 of which the estimates are not to be trusted (see `inference.diagnostics.pareto_k`).

    Raises:
        NoSupportError: if the posterior rules out every draw for a prompt.
    """
    draws = draw_and_weigh(model, prompts, guide=guide, num_samples=num_samples, chunk=chunk)
    check_support(
        draws.log_weight,
        prompts.texts,
        "draw more, train a guide towards the evidence, or soften the evidence",
    )
    return Posterior(
        draws.response,
        draws.log_weight,
        log_mean(draws.log_weight),
        {
            "effective_sample_size": effective_sample_size(draws.log_weight),
            "pareto_k": pareto_k(draws.log_weight),
        },
    )

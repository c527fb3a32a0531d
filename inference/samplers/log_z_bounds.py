"""Bounds on log Z from both sides, by sequential Monte Carlo.

    E[log Z_hat]  <=  log Z  <=  E[log Z_hat | one particle is an exact posterior sample]

Zhao et al. 2024, arXiv 2404.17546, section 5. The upper bound is conditional sequential Monte Carlo
(Andrieu, Doucet and Holenstein 2010), in which E[1 / Z_hat] = 1/Z. With q the distribution of a
response drawn from the weighted particles of a run, upper - lower is at least
KL(q || p*) + KL(p* || q). With one particle, lower is the ELBO and the gap is exactly that sum.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from inference.estimate import Estimate
from inference.programs import Program, autoregressive, response_distribution
from inference.response_site import check_arguments, check_value
from inference.samplers.resampling import multinomial
from inference.samplers.smc import sequential_monte_carlo
from inference.samplers.twist import Twist
from model import Prompts
from model.common.checks import first_index, instance
from model.prior.division import by_all_ranks


class LogZBounds(NamedTuple):
    """Unbiased estimates of a lower and an upper bound on log Z, averaged over prompts, nats."""

    lower: Estimate
    upper: Estimate

    @property
    def gap(self) -> Estimate:
        """upper - lower, a bound from above on KL(q || p*) + KL(p* || q) of the sampler's q."""
        return self.upper.minus(self.lower)


@by_all_ranks
def log_z_bounds(
    model: Program,
    prompts: Prompts,
    posterior_sample: Tensor,
    *,
    guide: Program | None = None,
    num_samples: int = 256,
    twist: Twist | None = None,
    ess_threshold: float = 0.5,
) -> LogZBounds:
    """Estimate both bounds from R runs each, with multinomial resampling.

    Of all schemes here, multinomial resampling alone has a simple distribution given particle 0.

    Args:
        model, prompts, guide, twist, ess_threshold: See `sequential_monte_carlo`; a threshold of 0
            has the bounds of importance sampling.
        posterior_sample: `[R, N, T]`, independent exact samples from the posterior, by rejection or
            enumeration; `[N, T]` for R = 1. With approximate samples there is no upper bound.
        num_samples: K, number of particles in a run, for each prompt. Both bounds tighten with K.

    Returns:
        The bounds; their standard errors need R of at least 2, are NaN for 1, and too small for
        few, see `Estimate`.
    """
    samples = _checked(posterior_sample, model, prompts)
    run = partial(sequential_monte_carlo, model, prompts, guide=guide, num_samples=num_samples)

    def log_z_hat(retained: Tensor | None) -> Tensor:
        posterior = run(
            twist=twist, resampling=multinomial, ess_threshold=ess_threshold, retained=retained
        )
        is_impossible = posterior.log_weight[0].isneginf()  # particle 0 is the retained sample
        if retained is not None and (place := first_index(is_impossible)) is not None:
            raise ValueError(
                f"posterior_sample has a response to {prompts.texts[place[0]]!r} that the model, "
                "the twist or the prior gives weight 0: it is no sample of this posterior"
            )
        assert posterior.log_z is not None  # sequential Monte Carlo always has an estimate
        return posterior.log_z

    lower = torch.stack([log_z_hat(None) for _ in samples])  # [R, N]
    upper = torch.stack([log_z_hat(sample) for sample in samples])
    return LogZBounds(Estimate.of_mean(lower), Estimate.of_mean(upper))


def _checked(posterior_sample: Tensor, model: Program, prompts: Prompts) -> Tensor:
    """The samples as `[R, N, T]`; refuse rows that are no responses to the prompts."""
    check_arguments(model, prompts, "model")
    instance("posterior_sample", posterior_sample, Tensor)
    samples = posterior_sample[None] if posterior_sample.dim() == 2 else posterior_sample
    if samples.dim() != 3 or samples.shape[1] != len(prompts) or len(samples) == 0:
        raise ValueError(
            f"posterior_sample has shape {tuple(posterior_sample.shape)}, expected (R, "
            f"{len(prompts)}, T): R samples of T token ids for each of the {len(prompts)} prompts"
        )
    prior = autoregressive(response_distribution(model, prompts, role="model"))
    check_value("posterior_sample", prior, samples)
    if not bool(prior.space.contains(samples).all()):
        raise ValueError(
            "posterior_sample has a row that is no response: what follows its end is not padding"
        )
    return samples

"""Samplers: algorithms that return a `Posterior`, one a file, and the registry that scripts and tests go by."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from inference.programs import Program
from inference.samplers.annealed_smc import annealed_smc
from inference.samplers.best_of_n import best_of_n
from inference.samplers.exact import enumerate_posterior
from inference.samplers.importance import importance_sampling
from inference.samplers.log_z_bounds import LogZBounds, log_z_bounds
from inference.samplers.metropolis_hastings import ResponseKernel, metropolis_hastings
from inference.samplers.posterior import NoSupportError, Posterior
from inference.samplers.quasi_rejection import quasi_rejection, quasi_rejection_sampling
from inference.samplers.rejection import rejection_sampling
from inference.samplers.resampling import RESAMPLING
from inference.samplers.smc import sequential_monte_carlo
from inference.samplers.suffix_move import suffix_move
from inference.samplers.twist import HasTwist, LikelihoodTwist
from model import Prompts
from model.common.checks import whole_number

TEMPERATURES, MOVES = 8, 2
"""Of annealed SMC as it is registered."""


class Sampler(NamedTuple):
    """An entry of the registry. Calling it samples.

    Attributes:
        sample: takes a model, prompts, `guide` (the proposal; None for the prior) and `num_samples`, the budget: responses
            drawn for each prompt.
        summary: one line.
    """

    sample: Callable[..., Posterior]
    summary: str

    def __call__(
        self,
        model: Program,
        prompts: Prompts,
        *,
        guide: Program | None = None,
        num_samples: int = 1024,
    ) -> Posterior:
        return self.sample(model, prompts, guide=guide, num_samples=num_samples)


def twisted_smc(
    model: Program, prompts: Prompts, *, guide: Program | None = None, num_samples: int = 1024
) -> Posterior:
    """Sequential Monte Carlo with the twist of the guide, if it has one; else with the evidence of each prefix, halved."""
    twist = guide.twist if isinstance(guide, HasTwist) else LikelihoodTwist(model, scale=0.5)
    return sequential_monte_carlo(model, prompts, guide=guide, num_samples=num_samples, twist=twist)


def annealed(
    model: Program, prompts: Prompts, *, guide: Program | None = None, num_samples: int = 1024
) -> Posterior:
    """Annealed SMC with as many particles as make `num_samples` responses over all temperatures and moves."""
    particles = max(2, whole_number("num_samples", num_samples) // (1 + TEMPERATURES * MOVES))
    return annealed_smc(
        model,
        prompts,
        guide=guide,
        num_samples=particles,
        num_temperatures=TEMPERATURES,
        moves=MOVES,
    )


SAMPLERS: dict[str, Sampler] = {
    "enumeration": Sampler(
        enumerate_posterior, "every response with its exact weight, where they can be listed"
    ),
    "importance": Sampler(importance_sampling, "draws weighted by p0 exp(r/beta) / q"),
    "rejection": Sampler(rejection_sampling, "exact draws, where the evidence has a known bound"),
    "quasi-rejection": Sampler(
        quasi_rejection_sampling, "rejection with a bound that need not hold, and what that costs"
    ),
    "best-of-n": Sampler(
        best_of_n, "the best of every 16 draws: another target, not the posterior of beta"
    ),
    "metropolis-hastings": Sampler(
        metropolis_hastings, "Markov chains that redraw the end of a response"
    ),
    "independence-metropolis-hastings": Sampler(
        partial(metropolis_hastings, whole=True), "Markov chains that redraw the whole response"
    ),
    "smc": Sampler(sequential_monte_carlo, "sequential Monte Carlo over tokens"),
    "twisted-smc": Sampler(
        twisted_smc, "the same, led by the guide's twist, or by the evidence of the response so far"
    ),
    "annealed-smc": Sampler(
        annealed,
        "whole responses from prior to posterior over 8 temperatures, for hard evidence too",
    ),
}
"""By name, what samples when called with a model and prompts."""

__all__ = [
    "RESAMPLING",
    "SAMPLERS",
    "LikelihoodTwist",
    "LogZBounds",
    "NoSupportError",
    "Posterior",
    "ResponseKernel",
    "Sampler",
    "annealed_smc",
    "best_of_n",
    "enumerate_posterior",
    "importance_sampling",
    "log_z_bounds",
    "metropolis_hastings",
    "quasi_rejection",
    "quasi_rejection_sampling",
    "rejection_sampling",
    "sequential_monte_carlo",
    "suffix_move",
]

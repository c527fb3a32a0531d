"""Samplers: algorithms that return a `Posterior`, one a file, and their registry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from inference.programs import Program
from inference.samplers.annealed_smc import annealed_smc
from inference.samplers.best_of_n import best_of_n
from inference.samplers.exact import enumerate_posterior
from inference.samplers.importance import importance_sampling
from inference.samplers.metropolis_hastings import metropolis_hastings
from inference.samplers.posterior import Posterior
from inference.samplers.quasi_rejection import quasi_rejection_sampling
from inference.samplers.rejection import rejection_sampling
from inference.samplers.smc import sequential_monte_carlo
from inference.samplers.twist import LikelihoodTwist
from model import Prompts
from model.common.checks import whole_number

TEMPERATURES, MOVES = 8, 2
"""Number of temperatures, and of moves at each temperature, of the entry `annealed-smc`."""


@dataclass(frozen=True)
class Sampler:
    """Entry of the registry of samplers. Calling the entry samples.

    Attributes:
        sample: Takes a model, prompts, `num_samples` and `guide`, the proposal (None, the prior).
        target: Distribution to which the weighted responses converge: `posterior`, `posterior,
            nearly` or `best of n`.
        lists_all: True if the sampler lists all responses and ignores `num_samples`.
        needs_bound: True if `sample` needs `log_bound` where the model states no bound or a guide
            proposes.
    """

    sample: Callable[..., Posterior]
    summary: str
    target: str = "posterior"
    lists_all: bool = False
    needs_bound: bool = False

    def __call__(
        self, model: Program, prompts: Prompts, *, num_samples: int = 1024, **options: Any
    ) -> Posterior:
        return self.sample(model, prompts, num_samples=num_samples, **options)


def twisted_smc(
    model: Program, prompts: Prompts, *, guide: Program | None = None, num_samples: int = 1024
) -> Posterior:
    """Sequential Monte Carlo with the guide's twist, or with half the prefix's log likelihood."""
    twist = getattr(guide, "twist", None) or LikelihoodTwist(model, scale=0.5)
    return sequential_monte_carlo(model, prompts, guide=guide, num_samples=num_samples, twist=twist)


def annealed(
    model: Program, prompts: Prompts, *, guide: Program | None = None, num_samples: int = 1024
) -> Posterior:
    """Annealed SMC that draws `num_samples` responses over all temperatures and moves together."""
    particles = max(2, whole_number("num_samples", num_samples) // (1 + TEMPERATURES * MOVES))
    temper = partial(annealed_smc, num_temperatures=TEMPERATURES, moves=MOVES)
    return temper(model, prompts, guide=guide, num_samples=particles)


SAMPLERS: dict[str, Sampler] = {
    "enumeration": Sampler(
        enumerate_posterior,
        "every response with its exact weight, where responses can be listed",
        lists_all=True,
    ),
    "importance": Sampler(importance_sampling, "draws weighted by p0 exp(r/beta) / q"),
    "rejection": Sampler(
        rejection_sampling, "exact draws, where the likelihood has a known bound", needs_bound=True
    ),
    "quasi-rejection": Sampler(
        quasi_rejection_sampling,
        "rejection with a bound that may be exceeded, and the error that this causes",
        target="posterior, nearly",
    ),
    "best-of-n": Sampler(
        best_of_n,
        "the best of every 16 draws: another target, not the posterior of beta",
        target="best of n",
    ),
    "metropolis-hastings": Sampler(
        metropolis_hastings, "Markov chains that redraw the end of a response"
    ),
    "independence-metropolis-hastings": Sampler(
        partial(metropolis_hastings, whole=True), "Markov chains that redraw the whole response"
    ),
    "smc": Sampler(sequential_monte_carlo, "sequential Monte Carlo over tokens"),
    "twisted-smc": Sampler(
        twisted_smc,
        "sequential Monte Carlo led by the guide's twist, or by the likelihood of the prefix",
    ),
    "annealed-smc": Sampler(
        annealed,
        "whole responses from prior to posterior over 8 temperatures; supports hard constraints",
    ),
}
"""Samplers by name. Calling an entry with a model and prompts samples."""

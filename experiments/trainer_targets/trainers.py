"""Trainers of this library, each with the target that it is predicted to reach."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.training import train
from experiments.trainer_targets.worlds import World
from guides import FineTuned
from inference import OBJECTIVES

RATE = 3e-3
"""Adam's peak learning rate."""


@dataclass(frozen=True)
class Trainer:
    """A trainer, its beta, and its predicted target.

    Attributes:
        run: function of world, steps, particles and seed; returns log q of all responses, `[S, N]`.
    """

    target: str
    beta: float
    run: Callable[[World, int, int, int], Tensor]


def ours(name: str, beta: float, target: str | None = None, **options: float | str) -> Trainer:
    """Trainer by the objective of that name, with options, and its target if not the registered."""
    make = partial(OBJECTIVES[name], **options)
    return Trainer(target or OBJECTIVES[name].target, beta, partial(_fit, make))


def _fit(make: Callable[..., ELBO], world: World, steps: int, particles: int, seed: int) -> Tensor:
    objective = make(num_particles=particles)
    run = partial(train, FineTuned(world.prior), world.model, world.prompts, objective)
    return world.truth.log_guide(run(steps, learning_rate=RATE, seed=seed))


OURS = {
    "rloo": ours("rloo", 0.1),
    "reinforce++": ours("reinforce++", 0.1),
    "grpo": ours("grpo", 0.5, kl_weight=0.5),
    "dapo": ours("dapo", 0.5, kl_weight=0.5),
    "gspo": ours("gspo", 0.5, kl_weight=0.5),
    "cispo": ours("cispo", 0.5, kl_weight=0.5),
    "grpo, k2": ours("grpo", 1.0, "grpo-token-kl", estimator="k2", kl_weight=1.0),
    "dr-grpo": ours("dr-grpo", 0.05),
    "best-of-n-distillation": ours("best-of-n-distillation", 0.1, "best-of-n", n=16),
    "max-at-k": ours("max-at-k", 0.1),
}
"""Trainers by the names of their objectives. Scaled advantages have the trainer's own beta."""

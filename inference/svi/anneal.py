"""From soft to hard: SVI for a posterior with hard constraints, which no guide that can draw the forbidden could be fitted to.

    p_c(x) = p0(x) exp(r(x)/beta) exp(-c [x is forbidden]) / Z_c,    c = c_1 < c_2 < ... nats

For a finite penalty c the ELBO is finite; under p_c the forbidden has probability (1 - Z) exp(-c) / (Z + (1 - Z) exp(-c)) if
nothing else is at stake. Each stage starts from the guide of the last. What the guide still draws of the forbidden in the end,
rejection or importance sampling with it as the proposal takes out, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro.distributions import Unit
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from inference import random_state
from inference.objectives import LeaveOneOut_ELBO
from inference.programs import Program, log_likelihood_at, response_distribution
from inference.response_site import check_arguments
from inference.svi.fit import Fit, fit
from inference.svi.optimizer.fused import FusedOptimizer, cosine
from model import HardConstraintSupport, Prompts
from model.common import checks
from model.common.checks import function, instance, positive, whole_number
from model.optimality import LogBernoulli


class _Soften(HardConstraintSupport):
    """Inside this context a factor of -inf is one of minus `penalty` nats, and so is the log-probability of an observation."""

    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.penalty = penalty

    def _pyro_sample(self, msg: dict) -> None:
        if isinstance(msg["fn"], Unit):
            msg["fn"] = Unit(self._softened(msg["name"], msg["fn"].log_factor))
        elif isinstance(msg["fn"], LogBernoulli):
            msg["fn"] = LogBernoulli(self._softened(msg["name"], msg["fn"].log_prob_of_one))

    def _softened(self, name: str, log_factor: Tensor) -> Tensor:
        hard = log_factor.isneginf()
        if bool(hard.any()) and bool((log_factor[~hard] != 0).any()):
            raise ValueError(
                f"factor {name!r} is -inf in places and other than 0 in others: a hard constraint and a reward in one, and a "
                "penalty would take the place of both. Give the constraint a name of its own beside the reward"
            )
        return log_factor.double().masked_fill(hard, -self.penalty)


def soften(model: Program, penalty: float) -> Program:
    """The model with every hard constraint replaced by a penalty where it is not met.

    A constraint is a factor of 0 and -inf alone; where it is part of another factor, as in a weighted sum, running the program
    raises a `ValueError`.

    Args:
        model: a Pyro program with factors.
        penalty: c, nats, positive.

    Raises:
        ValueError: if the penalty is not positive and finite.
    """
    function("the model", model, why="a Pyro program over prompts")
    penalty = positive("penalty", penalty, why="nats")

    def softened(prompts: Prompts) -> Any:
        with _Soften(penalty):
            return model(prompts)

    return softened


@dataclass(frozen=True)
class Stage:
    """What one penalty came to.

    Attributes:
        penalty: nats.
        forbidden: the share of the guide's draws, after the stage, that the constraints forbid, averaged over prompts.
        fit: the stage's fit; its ELBO is that of the softened model.
    """

    penalty: float
    forbidden: float
    fit: Fit


def anneal(
    model: Program,
    guide: Program,
    prompts: Prompts,
    *,
    num_steps: int,
    penalties: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    objective: Callable[[], ELBO] = LeaveOneOut_ELBO,
    optimizer: Callable[[int], PyroOptim] = lambda steps: FusedOptimizer(
        clip_norm=1.0, schedule=cosine(steps)
    ),
    num_samples: int = 512,
    seed: int = 0,
    progress: bool = True,
) -> list[Stage]:
    """Fit a guide in stages to a model with hard constraints, softened less and less.

    Args:
        model: a Pyro program whose factors may be -inf.
        guide: trained in place; a module, or a function of one, not of `pyro.param`.
        prompts: N prompts.
        num_steps: of SVI at each stage.
        penalties: c, nats, growing; the last decides how much of the forbidden is left.
        objective: makes a new objective for each stage.
        optimizer: makes a new optimiser for a stage of so many steps.
        num_samples: draws for each prompt behind `Stage.forbidden`.
        seed: of all stages.
        progress: show a bar for each.

    Returns:
        A stage for each penalty; fewer if one stopped early, which its fit says why.

    Raises:
        ValueError: if the penalties do not grow or are not positive and finite, no draws are asked for, or the guide has
            parameters that end with the fit of a stage.
    """
    check_arguments(model, prompts, "model")
    check_arguments(guide, prompts, "guide")
    instance("penalties", penalties, Sequence)  # type: ignore[type-abstract]
    checks.seed("seed", seed)
    if isinstance(objective, ELBO) or not callable(objective) or not callable(optimizer):
        raise TypeError(
            "objective and optimizer are made anew for each stage: expected functions that make them, not the objects"
        )
    programs = [
        soften(model, penalty) for penalty in penalties
    ]  # all of them now: a bad one should not wait for the others
    if not programs or any(later <= earlier for earlier, later in pairwise(penalties)):
        raise ValueError(
            f"penalties are {list(penalties)}, expected at least one, each larger than the one before"
        )
    num_steps = whole_number("num_steps", num_steps, why="steps of SVI at each stage")
    num_samples = whole_number(
        "num_samples", num_samples, why="draws for each prompt behind `Stage.forbidden`"
    )
    _check_keeps_its_parameters(guide, prompts)
    stages: list[Stage] = []
    for i, (penalty, program) in enumerate(zip(penalties, programs, strict=True)):
        result = fit(
            program,
            guide,
            prompts,
            num_steps=num_steps,
            objective=objective(),
            optimizer=optimizer(num_steps),
            seed=seed + i,
            progress=progress,
        )
        with random_state.isolated(seed + i), torch.no_grad():
            drawn = response_distribution(guide, prompts, role="guide").sample(
                torch.Size([num_samples])
            )
            forbidden = log_likelihood_at(model, prompts, drawn).isneginf().double().mean().item()
        stages.append(Stage(penalty, forbidden, result))
        if result.stopped_early is not None:
            break
    return stages


def _check_keeps_its_parameters(guide: Program, prompts: Prompts) -> None:
    """Refuse `pyro.param` in a guide: each fit has a store of its own, so that each stage would start anew."""
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        with random_state.preserved(), pyro.get_param_store().scope(), torch.no_grad():
            response_distribution(guide, prompts)
            runs.append(dict(pyro.get_param_store().named_parameters()))
    lost = [name for name, parameter in runs[0].items() if runs[1].get(name) is not parameter]
    if lost:
        raise ValueError(
            f"the guide makes its parameter {lost[0]!r} with `pyro.param`, which ends with the fit of a "
            "stage, so that the next would start anew: expected a guide whose parameters are a module's"
        )

"""Annealing of hard constraints: SVI for a posterior that most objectives refuse.

    p_c(x) = p0(x) likelihood(x) exp(-c [x is forbidden]) / Z_c,    c = c_1 < c_2 < ... nats

For a finite penalty c the ELBO is finite. If constraints are the only factors, p_c gives the
forbidden responses probability (1 - Z) exp(-c) / (Z + (1 - Z) exp(-c)). Each stage starts from the
guide of the stage before. Rejection or importance sampling with the final guide as the proposal
removes the remaining forbidden responses exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro.distributions import Unit
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from inference import random_state
from inference.objectives.leave_one_out import LeaveOneOut_ELBO
from inference.programs import Program, log_likelihood_at, response_distribution
from inference.svi.fit import fit
from inference.svi.loop import Fit
from inference.svi.optimizer.fused import adam_on_cosine
from model import HardConstraintSupport, Prompts
from model.common.checks import function, instance, positive, whole_number
from model.common.checks import seed as check_seed
from model.optimality import LogBernoulli


class _Penalty(HardConstraintSupport):
    """Handler that replaces -inf by minus `penalty`, in factors and observed log probabilities."""

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
                f"factor {name!r} is -inf in places and other than 0 in others: a penalty would "
                "replace a hard constraint and a reward together. Give the constraint a name of "
                "its own beside the reward"
            )
        return log_factor.double().masked_fill(hard, -self.penalty)


class _Softened:
    """A program with a finite penalty in place of -inf."""

    def __init__(self, model: Program, penalty: float) -> None:
        self.model, self.penalty = model, penalty

    def __call__(self, prompts: Prompts) -> Any:
        with _Penalty(self.penalty):
            return self.model(prompts)


def soften(model: Program, penalty: float) -> Program:
    """The model with a penalty c > 0, nats, in place of every hard constraint.

    A hard constraint is a factor of 0 and -inf alone. If a constraint is part of another factor, as
    in a weighted sum, running the program raises a `ValueError`.
    """
    function("the model", model, why="a Pyro program over prompts")
    return _Softened(model, positive("penalty", penalty, why="nats"))


@dataclass(frozen=True)
class Stage:
    """Result of the fit at one penalty."""

    penalty: float  # c, nats
    forbidden: float  # share of forbidden responses among the guide's draws, averaged over prompts
    fit: Fit  # result of the stage; its ELBO is the ELBO of the softened model


def anneal(
    model: Program,
    guide: Program,
    prompts: Prompts,
    *,
    num_steps: int,
    penalties: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    objective: Callable[[], ELBO] = LeaveOneOut_ELBO,
    optimizer: Callable[[int], PyroOptim] = adam_on_cosine,
    num_samples: int = 512,
    seed: int = 0,
    progress: bool = True,
) -> list[Stage]:
    """Fit a guide in stages to a model with hard constraints and growing penalties.

    Args:
        model: a Pyro program whose factors may be -inf.
        guide: trained in place; a module, or a function of a module, without `pyro.param`.
        prompts: N prompts.
        num_steps: number of SVI steps at each stage.
        penalties: c, nats, growing. The last penalty decides how many forbidden responses remain.
        objective: function that makes a new objective for each stage.
        optimizer: function of the number of steps that makes a new optimiser for each stage;
            default as in `fit`.
        num_samples: number of draws for each prompt behind `Stage.forbidden`.
        seed: random seed.
        progress: True to show a progress bar for each stage.

    Returns:
        A stage for each penalty; fewer if a fit stopped early.

    Raises:
        ValueError: if the penalties do not grow, if a number is out of its range, or if the guide
            has parameters that end with the fit of a stage.
    """
    instance("penalties", penalties, Sequence)  # type: ignore[type-abstract]
    seed = check_seed("seed", seed)
    if isinstance(objective, ELBO) or not callable(objective) or not callable(optimizer):
        expected = "expected functions that make them, not the objects"
        raise TypeError(f"objective and optimizer are made anew for each stage: {expected}")
    programs = [soften(model, penalty) for penalty in penalties]  # checks all penalties first
    if not programs or any(later <= earlier for earlier, later in pairwise(penalties)):
        expected = "expected at least one, each larger than the one before"
        raise ValueError(f"penalties are {list(penalties)}, {expected}")
    num_steps = whole_number("num_steps", num_steps, why="steps of SVI at each stage")
    num_samples = whole_number("num_samples", num_samples, why="draws for each prompt")
    _check_keeps_its_parameters(guide, prompts)
    train = partial(fit, guide=guide, prompts=prompts, num_steps=num_steps, progress=progress)
    stages = []
    for i, (penalty, program) in enumerate(zip(penalties, programs, strict=True)):
        result = train(
            program, objective=objective(), optimizer=optimizer(num_steps), seed=seed + i
        )
        with random_state.isolated(seed + i, prompts.ids.device):
            forbidden = _forbidden_share(model, guide, prompts, num_samples)
        stages.append(Stage(penalty, forbidden, result))
        if result.stopped_early is not None:
            break
    return stages


@torch.no_grad()
def _forbidden_share(model: Program, guide: Program, prompts: Prompts, num_samples: int) -> float:
    """Share of forbidden responses among draws of the guide, averaged over prompts."""
    distribution = response_distribution(guide, prompts, role="guide")
    response = distribution.sample(torch.Size([num_samples]))
    return log_likelihood_at(model, prompts, response).isneginf().double().mean().item()


def _check_keeps_its_parameters(guide: Program, prompts: Prompts) -> None:
    """Refuse `pyro.param` in a guide: each stage has its own store, so would start anew."""
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        with random_state.preserved(), pyro.get_param_store().scope(), torch.no_grad():
            response_distribution(guide, prompts, role="guide")
            runs.append(dict(pyro.get_param_store().named_parameters()))
    lost = [name for name, parameter in runs[0].items() if runs[1].get(name) is not parameter]
    if lost:
        raise ValueError(
            f"the guide makes its parameter {lost[0]!r} with `pyro.param`, which ends with the fit "
            "of a stage: expected a guide whose parameters are a module's"
        )

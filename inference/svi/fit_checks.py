"""The checks of a fit: its arguments before anything is spent, and after the first gradient whether it reaches anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from guides.guide import GuideRegistrationError
from inference.objectives import ResponseObjective
from inference.programs import Program
from inference.response_site import check_arguments
from inference.svi.checkpoint.checkpoint import CheckpointError, has_checkpoint
from inference.svi.optimizer.checked import CheckedOptimizer, check_start
from inference.svi.optimizer.fused import adam_on_cosine
from inference.svi.optimizer.per_parameter import PerParameterOptimizer
from model import Prompts


class NothingToTrainError(ValueError):
    """No gradient reaches any parameter."""


def check_programs(model: Program, guide: Program, prompts: Prompts) -> None:
    """Refuse programs that cannot be fitted at all, a guide with NaN in it among them."""
    check_arguments(model, prompts, "model")
    check_arguments(guide, prompts, "guide")
    if model is guide:
        raise ValueError(
            "model and guide are the same program, expected a guide that approaches the model's posterior"
        )
    if isinstance(guide, nn.Module):
        check_start(dict(guide.named_parameters()))
        for parameter in guide.parameters():
            parameter.grad = None  # of another loss, which is not to be in the first step


def new_objective(objective: ELBO) -> ELBO:
    """The objective, if it is one that remembers nothing yet."""
    if not isinstance(objective, ELBO):
        raise TypeError(
            f"objective is {objective!r}, expected an object of a `pyro.infer.ELBO`, such as `LeaveOneOut_ELBO()`"
        )
    if isinstance(objective, ResponseObjective):
        _check_unused("objective", objective.step_count)
    return objective


def new_optimizer(
    optimizer: PyroOptim | None, num_steps: int, **numbers: float | None
) -> CheckedOptimizer:
    """The optimiser of a fit, checked in every step.

    Args:
        optimizer: a new optimiser, or None for Adam on a cosine.
        num_steps: number of steps of the fit.
        numbers: `learning_rate` and `clip_norm` of Adam on a cosine; None for its defaults.
    """
    given = {name: number for name, number in numbers.items() if number is not None}
    if optimizer is None:
        return adam_on_cosine(num_steps, **given)
    if given:
        raise ValueError(
            f"both optimizer and {' and '.join(given)} are given, expected one of them: "
            "pass the numbers to the optimizer, or leave the optimizer out"
        )
    if isinstance(optimizer, CheckedOptimizer):
        _check_unused("optimizer", optimizer.step_count)
        return optimizer
    if isinstance(optimizer, PyroOptim):
        return PerParameterOptimizer(optimizer)
    raise TypeError(
        f"optimizer is {optimizer!r}, expected a `FusedOptimizer`, such as "
        "`FusedOptimizer(torch.optim.Adam)`, or an optimiser of `pyro.optim`"
    )


def restores(folder: Path, resume: bool) -> bool:
    """Whether the fit goes on from a checkpoint in the folder."""
    if has_checkpoint(folder) and not resume:
        raise CheckpointError(
            f"{folder} already has a checkpoint: pass resume=True to go on from it, or name another folder"
        )
    return has_checkpoint(folder)


def check_trains(guide: Program, objective: Any) -> None:
    """After the first gradient: refuse a guide that it does not reach, or reaches where Pyro's optimiser would not.

    Raises:
        NothingToTrainError: if no parameter has a gradient, those of the objective's own heads aside.
        GuideRegistrationError: if parameters of the guide have one that Pyro does not know.
    """
    registered: dict[str, Tensor] = dict(pyro.get_param_store().named_parameters())
    known = {id(parameter) for parameter in registered.values()}
    own = dict(guide.named_parameters()) if isinstance(guide, nn.Module) else {}
    stray = [
        name
        for name, parameter in own.items()
        if parameter.grad is not None and id(parameter) not in known
    ]
    if stray:
        raise GuideRegistrationError(
            f"Pyro does not know {len(stray)} parameters of the guide that have a gradient, first "
            f"{stray[0]!r}, so that they would not train: call `pyro.module(NAME, guide)` where the "
            "guide runs, or take them out with `requires_grad_(False)`"
        )
    heads = [head for head in vars(objective).values() if isinstance(head, nn.Module)]
    of_objective = {id(parameter) for head in heads for parameter in head.parameters()}
    if any(
        parameter.grad is not None and id(parameter) not in of_objective
        for parameter in registered.values()
    ):
        return
    trainable = any(parameter.requires_grad for parameter in own.values())
    frozen = f" All {len(own)} parameters of the guide are frozen." if own and not trainable else ""
    raise NothingToTrainError(
        f"no gradient reaches any of the {len(registered)} parameters in Pyro's store, so nothing "
        f"would be trained.{frozen} Expected a guide with `pyro.param` or `pyro.module`, and "
        "parameters that require a gradient. A `LanguageModel` freezes the network that it is made "
        "of, a guide's too (`requires_grad_(True)` thaws it); `detach` and `no_grad` cut the gradient"
    )


def _check_unused(name: str, step_count: int) -> None:
    if step_count:
        raise ValueError(
            f"the {name} has done {step_count} steps already, expected a new one for each fit"
        )

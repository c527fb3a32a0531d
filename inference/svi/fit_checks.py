"""Start of a fit: programs, objective and optimiser are checked, and ranks agree on the call."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import nn

from inference.objectives.leave_one_out import LeaveOneOut_ELBO
from inference.programs import Program
from inference.response_site import check_arguments
from inference.svi.best_iterate import BestIterate
from inference.svi.checkpoint.folder import CheckpointError, has_checkpoint, locked
from inference.svi.checkpoint.state import FitState
from inference.svi.fit_objective import FitObjective, elbo_of, fit_objective
from inference.svi.optimizer.checked import CheckedOptimizer, check_start
from inference.svi.optimizer.fused import adam_on_cosine
from inference.svi.optimizer.per_parameter import PerParameterOptimizer
from inference.svi.optimizer.trust_region import TrustRegion, WholeSteps
from inference.svi.options import AMOUNTS, FitOptions
from model import Prompts
from model.common import ranks
from model.common.files import text_digest
from model.common.texts import quoted


def check_programs(model: Program, guide: Program, prompts: Prompts) -> None:
    """Check model, guide and prompts, and drop the guide's gradients of other losses."""
    check_arguments(model, prompts, "model")
    check_arguments(guide, prompts, "guide")
    if not torch.is_grad_enabled():
        off = "`torch.no_grad()`, `torch.inference_mode()` or `torch.set_grad_enabled(False)`"
        raise RuntimeError(f"gradients are off, by {off}: call `fit` outside")
    if model is guide:
        raise ValueError("model and guide are the same program, expected a guide near p*")
    if isinstance(guide, nn.Module):
        check_start(dict(guide.named_parameters()))
        for parameter in guide.parameters():
            parameter.grad = None


def new_state(
    guide: Program, elbo: ELBO | None, optimizer: PyroOptim | None, options: FitOptions
) -> FitState:
    """State of a fit before its first step. Objective and optimiser are unused, or the defaults."""
    elbo = LeaveOneOut_ELBO() if elbo is None else elbo
    if not isinstance(elbo, ELBO):
        expected = "an object of a `pyro.infer.ELBO`, such as `LeaveOneOut_ELBO()`"
        raise TypeError(f"objective is {quoted(elbo)}, expected {expected}")
    objective = fit_objective(elbo)
    _check_unused("objective", objective.step_count)
    state = FitState(guide, _new_optimizer(optimizer, objective, options), objective)
    state.best = BestIterate() if options.keep_best and objective.ascends_elbo else None
    return state


def _new_optimizer(
    optimizer: PyroOptim | None, objective: FitObjective, options: FitOptions
) -> CheckedOptimizer:
    """The optimiser of a fit, with checks in every step: a trust region, or Adam on a cosine."""
    numbers = {name: getattr(options, name) for name in ("step_kl", "learning_rate", "clip_norm")}
    given = {name: number for name, number in numbers.items() if number is not None}
    if optimizer is None and "step_kl" in given and len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} are given, expected one: `step_kl` is the size of a step in "
            "nats, `learning_rate` in units of parameters, and `clip_norm` belongs to the latter"
        )
    if optimizer is None and given.keys() - {"step_kl"}:
        if options.num_steps is None:
            raise ValueError(
                f"{' and '.join(given)} is given without num_steps, which a cosine to 0 needs: "
                "leave it out for steps in nats, pass num_steps, or pass an optimizer"
            )
        return adam_on_cosine(options.num_steps, **given)
    if optimizer is None:
        return WholeSteps(**given) if objective.takes_whole_steps else TrustRegion(**given)
    if given:
        fault = f"both optimizer and {' and '.join(given)} are given, expected one of them"
        raise ValueError(f"{fault}: pass the numbers to the optimizer, or leave the optimizer out")
    if isinstance(optimizer, CheckedOptimizer):
        _check_unused("optimizer", optimizer.step_count)
        return optimizer
    if isinstance(optimizer, PyroOptim):
        return PerParameterOptimizer(optimizer)
    raise TypeError(
        f"optimizer is {quoted(optimizer)}, expected a `FusedOptimizer`, such as "
        "`FusedOptimizer(torch.optim.Adam)`, or an optimiser of `pyro.optim`"
    )


def resumes(folder: Path, resume: bool) -> bool:
    """True if the fit continues from a checkpoint in the folder."""
    exists = has_checkpoint(folder)
    if exists and not resume:
        fix = "pass resume=True to go on from it, or name another folder"
        raise CheckpointError(f"{folder} already has a checkpoint: {fix}")
    return exists


def agree(state: FitState, prompts: Prompts, options: FitOptions) -> None:
    """Check that all ranks call `fit` alike, and give a module the first rank's parameters.

    Parameters that do not train are the file's, and are not compared.

    Raises:
        ValueError: if a rank has other prompts, or another number of these.
    """
    guide, objective = state.guide, state.objective
    facts = {name: getattr(options, name) for name in ("seed", *AMOUNTS, "prompts_per_step")}
    facts["objective"] = type(elbo_of(objective)).__name__
    facts["num_particles"] = objective.num_particles
    facts["prompts"] = text_digest(" ".join(prompts.names()))
    for number, others in enumerate(ranks.all_of(facts)):
        for name, value in facts.items():
            if others[name] != value:
                raise ValueError(
                    f"rank {number} calls `fit` with {name} {others[name]!r}, and rank "
                    f"{ranks.rank()} with {value!r}, expected the same on all ranks: the ranks "
                    "of a process group divide the responses of one fit. Call `fit` inside "
                    "`model.common.ranks.alone()` for a fit of one rank"
                )
    if isinstance(guide, nn.Module):
        trained = {name: p for name, p in guide.named_parameters() if p.requires_grad}
        ranks.copy_from_first(trained)


@contextmanager
def locked_by_first(folder: Path | None) -> Iterator[None]:
    """Lock a folder on the first rank, see `locked`. All ranks wait for the lock."""
    with ExitStack() as stack:
        with ranks.failing_together():
            if ranks.is_first():
                stack.enter_context(locked(folder))
        yield


def _check_unused(name: str, step_count: int) -> None:
    if step_count:
        expected = "expected a new one for each fit"
        raise ValueError(f"the {name} has done {step_count} steps already, {expected}")

"""The fit: a loop around `pyro.infer.SVI.step`, with progress, metrics, checkpoints and a clean stop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.params.param_store import StateDict
from tqdm import tqdm

from inference import random_state
from inference.objectives import LeaveOneOut_ELBO
from inference.programs import Program
from inference.svi.checkpoint.checkpoint import CheckpointError, FitState
from inference.svi.checkpoint.fingerprint import Fingerprint
from inference.svi.checkpoint.folder_lock import locked
from inference.svi.checkpoint.writer import CheckpointWriter
from inference.svi.fit_checks import check_programs, new_objective, new_optimizer, restores
from inference.svi.optimizer.checked import (
    NonFiniteGradientError,
    NonFiniteParametersError,
    ScheduleError,
)
from inference.svi.rollback import NonFiniteGuideError, Rollback
from inference.svi.step import Metrics, NonFiniteLossError, checked_svi, take_step
from model import Prompts
from model.common import checks
from model.common.thread_lock import THREAD_LOCK

STOPS = (
    NonFiniteLossError,
    NonFiniteGradientError,
    NonFiniteParametersError,
    NonFiniteGuideError,
    ScheduleError,
)
"""Errors of a step after which a fit returns early, with its last good parameters."""


@dataclass
class Fit:
    """What `fit` returns.

    Attributes:
        state: guide, optimiser and step; `state.guide` is the guide that was passed in, trained.
        parameters: the scope of Pyro's parameter store that the fit worked in. A module has its parameters in itself; to run a
            guide that is a plain function, enter `pyro.get_param_store().scope(parameters)`.
        metrics: one record a step of this call: `step`; `loss`, as the objective returned it, a sum over prompts; `elbo` and
            `log_likelihood`, E_q[r]/beta, nats by the prompt, as a `ResponseObjective` estimates them, and from minus the loss
            and the responses drawn for any other (NaN for Pyro's RenyiELBO and ReweightedWakeSleep, whose loss is another
            bound); `grad_norm`; `learning_rate`.
        stopped_early: why the fit ended before its last step; None if it did not.
    """

    state: FitState
    parameters: StateDict
    metrics: list[Metrics] = field(default_factory=list)
    stopped_early: str | None = None


def fit(
    model: Program,
    guide: Program,
    prompts: Prompts,
    *,
    num_steps: int,
    objective: ELBO | None = None,
    optimizer: PyroOptim | None = None,
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    prompts_per_step: int | None = None,
    seed: int = 0,
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 50,
    resume: bool = False,
    on_step: Callable[[Metrics], None] | None = None,
    progress: bool = True,
) -> Fit:
    """Train `guide` towards the posterior of `model` by stochastic variational inference.

    A fit has a scope of Pyro's parameter store and random generators of its own, so fits in one process share nothing, and
    leaves both as they were. Since both belong to the process, a fit in a second thread waits for the end of the first. On a
    CPU the result depends only on the arguments, also across kills and resumes.

    A step that leaves a NaN or an infinity, or a guide that gives one, is undone: the fit stops early with the last good
    parameters. That takes the memory of the trained parameters and of their moments once more.

    Args:
        model: a Pyro program over prompts, such as `AlignmentModel`.
        guide: a Pyro program over prompts, such as those in `guides`. A module is trained in place.
        prompts: N prompts.
        num_steps: steps in all, those before a resume included.
        objective: any `pyro.infer` ELBO; default `LeaveOneOut_ELBO()`.
        optimizer: a `FusedOptimizer`, or one of `pyro.optim` that is no scheduler. Default: Adam, with a warm-up over a
            twentieth of the steps, then a cosine to 0.
        learning_rate: peak of the learning rate of the default optimiser; default 1e-3.
        clip_norm: upper limit of the gradient's norm over all parameters, for the default optimiser; default no limit.
        prompts_per_step: size of a random subset of the prompts for each step, all where there are no more; default all.
        seed: of the generators.
        checkpoint_folder: where checkpoints go, of which the newest two are kept; default none are written.
        checkpoint_every: steps between them. One more is written after the last step, or where a step fails.
        resume: go on from the newest whole checkpoint in the folder; start afresh if there is none.
        on_step: called with the metrics of each step. What it draws leaves no trace on the fit.
        progress: show a bar.

    Raises:
        ValueError: if a number is out of its range, if the optimiser or the objective was used before (both may remember
            earlier steps), or if `learning_rate` or `clip_norm` is passed next to an optimiser.
        TypeError: if an argument is of another kind.
        CheckpointError: if the folder has a checkpoint already and `resume` is off, or the checkpoint is of another fit:
            something differs that the result depends on (`inference.fingerprint`), or the checkpoint is of more steps.
        FolderInUseError: if another fit works in the folder.
        NonFiniteStartError: if a parameter is NaN or infinite at the start.
        NothingToTrainError: if the first gradient reaches no parameter.
        ImpossibleResponseError: if the guide draws a response with evidence of -inf.

    An error in the middle, a `KeyboardInterrupt` among them, goes on after a checkpoint of the last whole step was written, if
    there is a folder for it. It says so in a note, and has what was done until then as its attribute `fit`, a `Fit`.
    """
    num_steps = checks.whole_number("num_steps", num_steps)
    checkpoint_every = checks.whole_number("checkpoint_every", checkpoint_every)
    checks.boolean("progress", progress)
    checks.boolean("resume", resume)
    check_programs(model, guide, prompts)
    if prompts_per_step is not None:
        prompts_per_step = checks.whole_number("prompts_per_step", prompts_per_step)
    seed = checks.seed("seed", seed)
    optimizer = new_optimizer(
        optimizer, num_steps, learning_rate=learning_rate, clip_norm=clip_norm
    )
    objective = new_objective(LeaveOneOut_ELBO() if objective is None else objective)
    state = FitState(guide, optimizer, objective)
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)
    if resume and folder is None:
        raise ValueError(
            "resume is True without a checkpoint_folder, expected the folder of the checkpoint"
        )
    if folder is not None:
        state.fingerprint = Fingerprint(
            num_steps=num_steps,
            prompts=prompts,
            objective=objective,
            optimizer=optimizer,
            model=model,
            guide=guide,
            prompts_per_step=prompts_per_step,
            seed=seed,
        )
    result = Fit(state, {"params": {}, "constraints": {}})
    with (
        THREAD_LOCK,
        locked(folder),
        pyro.get_param_store().scope(result.parameters),
        random_state.isolated(seed),
    ):
        if folder is not None and restores(folder, resume):
            _restore(state, folder, prompts, num_steps)
        checkpoints = CheckpointWriter(state, folder, state.step)
        svi, rollback = checked_svi(model, state), Rollback(state, prompts)
        with tqdm(
            total=num_steps, initial=state.step, desc="fit", unit="step", disable=not progress
        ) as bar:
            try:
                while state.step < num_steps:
                    with rollback.step():
                        metrics = take_step(svi, state, _minibatch(prompts, prompts_per_step))
                    result.metrics.append(metrics)
                    if on_step is not None:
                        with random_state.preserved():
                            on_step(metrics)
                    bar.set_postfix(elbo=f"{metrics['elbo']:.3f}", refresh=False)
                    bar.update()
                    if state.step % checkpoint_every == 0 or state.step == num_steps:
                        checkpoints.save()
            except STOPS as error:
                result.metrics = [
                    record for record in result.metrics if record["step"] <= state.step
                ]
                result.stopped_early = f"step {state.step}: {error}"
                warnings.warn(f"fit stopped early at {result.stopped_early}", stacklevel=2)
                checkpoints.save()
            except BaseException as error:
                checkpoints.save_after(error)
                vars(error)["fit"] = result
                raise
    return result


def _restore(state: FitState, folder: Path, prompts: Prompts, num_steps: int) -> None:
    state.restore(folder, prompts)
    if state.step > num_steps:
        raise CheckpointError(
            f"the checkpoint in {folder} is of step {state.step}, expected at most num_steps={num_steps}: ask for more "
            "steps, or name another folder"
        )


def _minibatch(prompts: Prompts, size: int | None) -> Prompts:
    if size is None or size >= len(prompts):
        return prompts
    return prompts[torch.randperm(len(prompts))[:size].sort().values.tolist()]

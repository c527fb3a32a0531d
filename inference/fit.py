"""The fit: a loop around `pyro.infer.SVI.step`, with progress, metrics, checkpoints and a clean stop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, SVI, RenyiELBO, ReweightedWakeSleep, TraceTMC_ELBO
from pyro.params.param_store import StateDict
from pyro.poutine.messenger import Messenger
from tqdm import tqdm

from inference import random_state
from inference.checkpoint import CheckpointError, FitState, has_checkpoint
from inference.density import Program
from inference.fingerprint import fingerprint_of
from inference.folder_lock import locked
from inference.objectives import LeaveOneOut_ELBO, ResponseObjective
from inference.optimizer import FusedOptimizer, NonFiniteGradientError, cosine
from inference.response_site import SameResponses
from model import Prompts

Metrics = dict[str, float]


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite. The parameters are as they were before the step."""


@dataclass
class Fit:
    """What `fit` returns.

    Attributes:
        state: guide, optimiser and step; `state.guide` is the guide that was passed in, trained.
        parameters: the scope of Pyro's parameter store that the fit worked in. A module has its parameters in itself; to run a
            guide that is a plain function, enter `pyro.get_param_store().scope(parameters)`.
        metrics: one record a step of this call: `step`; `loss`, as the objective returned it, a sum over prompts; `elbo` and
            `log_evidence`, E_q[r]/beta, nats by the prompt, as a `ResponseObjective` estimates them, and from minus the loss
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
    optimizer: FusedOptimizer | None = None,
    prompts_per_step: int | None = None,
    seed: int = 0,
    checkpoint_folder: Path | None = None,
    checkpoint_every: int = 50,
    resume: bool = False,
    on_step: Callable[[Metrics], None] | None = None,
    progress: bool = True,
) -> Fit:
    """Train `guide` towards the posterior of `model` by stochastic variational inference.

    It has a scope of Pyro's parameter store and random generators of its own, so fits in one process share nothing, and
    leaves both as they were. On a CPU the result depends only on the arguments, also across kills and resumes.

    Args:
        model: a Pyro program over prompts, such as `AlignmentModel`.
        guide: a Pyro program over prompts, such as those in `guides`. A module is trained in place.
        prompts: N prompts.
        num_steps: steps in all, those before a resume included.
        objective: any `pyro.infer` ELBO; default `LeaveOneOut_ELBO()`.
        optimizer: default Adam at 1e-3, gradient norm at most 1, the rate on a cosine to 0.
        prompts_per_step: a random subset of so many prompts a step; default all.
        seed: of the generators.
        checkpoint_folder: where checkpoints go, of which the newest two are kept; default none are written.
        checkpoint_every: steps between them. One more is written after the last step.
        resume: go on from the newest whole checkpoint in the folder; start afresh if there is none.
        on_step: called with the metrics of each step.
        progress: show a bar.

    Raises:
        ValueError: if the optimiser or the objective was used before; both may remember what they saw.
        CheckpointError: if the folder has a checkpoint already and `resume` is off, or the checkpoint is of another fit:
            something differs that the result depends on (`inference.fingerprint`), the number of steps aside.
        FolderInUseError: if another fit works in the folder.
        ZeroEvidenceError: if the guide draws a response with evidence of -inf.
    """
    objective = LeaveOneOut_ELBO() if objective is None else objective
    optimizer = FusedOptimizer(clip_norm=1.0, schedule=cosine(num_steps)) if optimizer is None else optimizer
    for name, used in {"optimizer": optimizer, "objective": objective}.items():
        if isinstance(used, FusedOptimizer | ResponseObjective) and used.step_count:
            raise ValueError(f"the {name} has done {used.step_count} steps already, expected a new one for each fit")
    restores = checkpoint_folder is not None and has_checkpoint(checkpoint_folder)
    if restores and not resume:
        raise CheckpointError(
            f"{checkpoint_folder} already has a checkpoint: pass resume=True to go on from it, or name another folder"
        )
    state = FitState(guide, optimizer, objective)
    if checkpoint_folder is not None:
        state.fingerprint = fingerprint_of(
            prompts=prompts,
            objective=objective,
            optimizer=optimizer,
            model=model,
            guide=guide,
            prompts_per_step=prompts_per_step,
            seed=seed,
        )
    result = Fit(state, {"params": {}, "constraints": {}})
    svi = SVI(model, guide, optimizer, objective)
    svi.loss_and_grads = _refuse_non_finite(svi.loss_and_grads)
    with locked(checkpoint_folder), pyro.get_param_store().scope(result.parameters), random_state.isolated(seed):
        if checkpoint_folder is not None and restores:
            state.restore(checkpoint_folder, prompts)
        with tqdm(total=num_steps, initial=state.step, desc="fit", unit="step", disable=not progress) as bar:
            while state.step < num_steps:
                try:
                    metrics = _step(svi, state, _minibatch(prompts, prompts_per_step))
                except (NonFiniteLossError, NonFiniteGradientError) as error:
                    result.stopped_early = f"step {state.step}: {error}"
                    warnings.warn(f"fit stopped early at {result.stopped_early}", stacklevel=2)
                    break
                result.metrics.append(metrics)
                if on_step is not None:
                    on_step(metrics)
                bar.set_postfix(elbo=f"{metrics['elbo']:.3f}", refresh=False)
                bar.update()
                if checkpoint_folder is not None and (state.step % checkpoint_every == 0 or state.step == num_steps):
                    state.save(checkpoint_folder)
    return result


def _step(svi: SVI, state: FitState, prompts: Prompts) -> Metrics:
    """One step of SVI, counted in `state`. Returns its metrics."""
    rate, objective = state.optimizer.learning_rate, state.objective
    with SameResponses(), _RecordEvidence() as evidence:
        loss = _bound(svi.step(prompts))
    state.step += 1
    metrics = {"elbo": -loss / len(prompts), "log_evidence": evidence.mean()}
    if isinstance(objective, ResponseObjective):
        metrics = objective.metrics
    elif isinstance(objective, RenyiELBO | ReweightedWakeSleep | TraceTMC_ELBO):
        metrics["elbo"] = math.nan  # their loss is another bound
    return {
        "step": state.step,
        "elbo": metrics["elbo"],
        "loss": loss,
        "log_evidence": metrics["log_evidence"],
        "grad_norm": state.optimizer.grad_norm,
        "learning_rate": rate,
    }


class _RecordEvidence(Messenger):
    """Keeps the mean of every factor that a model adds, r/beta, over all responses that one of Pyro's objectives runs it on."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: dict[str, list[float]] = {}
        self.enumerated = False

    def _pyro_post_sample(self, msg: dict) -> None:
        self.enumerated |= not msg["infer"].keys().isdisjoint({"_enumerate_dim", "_enum_total"})
        if isinstance(msg["fn"], Unit):
            factor = scale_and_mask(msg["fn"].log_factor, msg["scale"], msg["mask"])
            self.factors.setdefault(msg["name"], []).append(factor.mean().item())

    def mean(self) -> float:
        """The factors added up, each averaged over the model's runs; NaN over a list, whose responses do not count alike."""
        if self.enumerated:
            return math.nan
        return sum(sum(values) / len(values) for values in self.factors.values()) if self.factors else math.nan


def _minibatch(prompts: Prompts, size: int | None) -> Prompts:
    if size is None or size >= len(prompts):
        return prompts
    return prompts[torch.randperm(len(prompts))[:size].sort().values.tolist()]


def _bound(loss: float | tuple[float, ...]) -> float:
    """The loss as one number; `ReweightedWakeSleep` returns two, of which the first is the bound."""
    return loss[0] if isinstance(loss, tuple) else loss


def _refuse_non_finite(loss_and_grads: Callable[..., Any]) -> Callable[..., Any]:
    """Raise before the optimiser sees the gradient of a loss that is NaN or infinite."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        loss = loss_and_grads(*args, **kwargs)
        if not math.isfinite(_bound(loss)):
            for _, parameter in pyro.get_param_store().named_parameters():
                parameter.grad = None
            raise NonFiniteLossError(f"the loss is {_bound(loss)}; the parameters were left as they were")
        return loss

    return checked

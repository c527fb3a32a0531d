"""The state to which a fit returns after a failed step.

Usually the state before the step. But parameters can be finite and yet too large for their network,
whose logits are then NaN. That shows in the next step, so the step before can be undone too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from inference import random_state
from inference.objectives.response_objective import ResponseObjective
from inference.programs import Program
from inference.svi.checkpoint.state import FitState
from inference.svi.optimizer.checked import NonFiniteParametersError, check_start
from model import Prompts


class NonFiniteGuideError(FloatingPointError):
    """The guide gives NaN at the parameters that the last step left. The step is undone."""


@dataclass
class _StepStart:
    """The state before a step, apart from parameters and moments, which the optimiser restores."""

    step: int
    objective: dict[str, Tensor]
    objective_steps: int
    generators: tuple[dict[str, Tensor], dict[str, Any]]

    @classmethod
    def of(cls, state: FitState) -> _StepStart:
        tensors = {name: tensor.clone() for name, tensor in state.objective_state().items()}
        objective = state.objective
        steps = objective.step_count if isinstance(objective, ResponseObjective) else 0
        return cls(state.step, tensors, steps, random_state.capture())

    def restore(self, state: FitState) -> None:
        state.step = self.step
        if isinstance(state.objective, ResponseObjective):
            state.objective.set_state(self.objective)
            state.objective.step_count = self.objective_steps
        random_state.restore(*self.generators)


class Rollback:
    """Restores a fit's state after a failed step.

    Args:
        state: state of the fit.
        prompts: all prompts, on which the guide is tried after a failed step.
    """

    def __init__(self, state: FitState, prompts: Prompts) -> None:
        self._state = state
        self._prompts = prompts
        self._before_last: _StepStart | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run one step of the fit. After a failure the state is as before the step.

        Raises:
            NonFiniteGuideError: if the step before left a guide that gives NaN; both are undone.
            NonFiniteStartError: if the first step failed because of a NaN parameter.
        """
        now = _StepStart.of(self._state)
        try:
            yield
        except BaseException as error:
            now.restore(self._state)
            for _, parameter in pyro.get_param_store().named_parameters():
                parameter.grad = None
            if isinstance(error, Exception) and not isinstance(error, NonFiniteParametersError):
                self._undo_last_if_to_blame(error)
                now.restore(self._state)  # the trial of the guide drew random numbers
            raise
        self._before_last = now

    def _undo_last_if_to_blame(self, error: Exception) -> None:
        before = self._before_last
        if before is None:
            check_start(dict(pyro.get_param_store().named_parameters()))
            return
        if gives_numbers(self._state.guide, self._prompts) or not self._state.optimizer.undo():
            return
        before.restore(self._state)
        raise NonFiniteGuideError(
            f"the guide has no numbers at the parameters of step {before.step + 1}, which was "
            f"undone ({error}). Look for a learning rate too high, or a half-precision guide."
        ) from error


def gives_numbers(guide: Program, prompts: Prompts) -> bool:
    """True unless the guide gives NaN at its parameters; other errors of its code do not count."""
    trial = _SiteTrial()
    try:
        with torch.no_grad(), pyro.validation_enabled(False), trial:
            poutine.trace(guide).get_trace(prompts)
    except Exception:  # an error of the guide's own code is the error of the step
        pass
    return trial.sound


class _SiteTrial(Messenger):
    """Draws and scores at each sample site; `sound` is False after a NaN or a failed draw."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = True

    def _pyro_sample(self, msg: dict) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        try:
            value = msg["fn"].sample()
            self.sound &= not bool(msg["fn"].log_prob(value).isnan().any())
        except (ArithmeticError, ValueError, RuntimeError):
            self.sound = False

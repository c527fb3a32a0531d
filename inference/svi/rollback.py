"""The state that a fit goes back to when a step fails.

As a rule it is the state before the step. But parameters can be finite and yet too large for their
network, whose logits are NaN then. That shows in the step after, so the step before can be undone too.
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
from inference.objectives import ResponseObjective
from inference.programs import Program
from inference.svi.checkpoint.checkpoint import FitState
from inference.svi.optimizer.checked import NonFiniteParametersError, check_start
from model import Prompts


class NonFiniteGuideError(FloatingPointError):
    """The guide has no numbers at the parameters that the last step left. The step was undone."""


@dataclass
class _Moment:
    """The part of a state that a step changes, parameters and moments aside: their optimiser undoes its steps itself."""

    step: int
    objective: dict[str, Tensor] | None
    objective_steps: int
    generators: tuple[dict[str, Tensor], dict[str, Any]]

    @classmethod
    def of(cls, state: FitState) -> _Moment:
        generators = random_state.capture()
        if not isinstance(state.objective, ResponseObjective):
            return cls(state.step, None, 0, generators)
        remembered = {name: tensor.clone() for name, tensor in state.objective.get_state().items()}
        return cls(state.step, remembered, state.objective.step_count, generators)

    def put_back(self, state: FitState) -> None:
        state.step = self.step
        if isinstance(state.objective, ResponseObjective) and self.objective is not None:
            state.objective.set_state(self.objective)
            state.objective.step_count = self.objective_steps
        random_state.restore(*self.generators)


class Rollback:
    """Puts a fit's state back after a failed step.

    Args:
        state: of the fit.
        prompts: all of them, on which the guide is tried where a step fails.
    """

    def __init__(self, state: FitState, prompts: Prompts) -> None:
        self._state = state
        self._prompts = prompts
        self._before_last: _Moment | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step of the fit. If it fails, the state is as before it.

        Raises:
            NonFiniteGuideError: if it failed because the step before left a guide without numbers;
                both were undone.
            NonFiniteStartError: if the first step failed because a parameter was no number.
        """
        now = _Moment.of(self._state)
        try:
            yield
        except BaseException as error:
            now.put_back(self._state)
            drop_gradients()
            if isinstance(error, Exception) and not isinstance(error, NonFiniteParametersError):
                self._undo_last_if_to_blame(error)
                now.put_back(self._state)  # the trial drew random numbers
            raise
        self._before_last = now

    def _undo_last_if_to_blame(self, error: Exception) -> None:
        before = self._before_last
        if before is None:
            check_start(dict(pyro.get_param_store().named_parameters()))
        if before is None or has_numbers(self._state.guide, self._prompts):
            return
        if self._state.optimizer.undo():
            before.put_back(self._state)
            raise NonFiniteGuideError(
                f"the guide has no numbers at the parameters of step {before.step + 1}, which was "
                f"undone ({error}). Look for a learning rate too high, or a half-precision guide."
            ) from error


def drop_gradients() -> None:
    """Drop the gradients of everything in Pyro's store."""
    for _, parameter in pyro.get_param_store().named_parameters():
        parameter.grad = None


def has_numbers(guide: Program, prompts: Prompts) -> bool:
    """Whether the guide can be sampled and scored at its parameters. An error of its own code is not taken for a bad number."""
    tried = _TrySites()
    try:
        with torch.no_grad(), pyro.validation_enabled(False), tried:
            poutine.trace(guide).get_trace(prompts)
    except Exception:  # of the guide's own code: the error of the step tells it
        pass
    return tried.sound


class _TrySites(Messenger):
    """Draws at each sample site and scores the draw; notes where that gives no number."""

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

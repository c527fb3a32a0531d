"""The state to which a fit returns after a failed step: usually the state before the step.

Parameters can be finite and yet too large for their network, whose logits are then NaN. The NaN
shows in the next step, so the step before can be undone too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn

from inference import random_state
from inference.programs import Program
from inference.svi.checkpoint.state import FitState, parameters
from inference.svi.optimizer.checked import (
    NonFiniteGradientError,
    NonFiniteParametersError,
    check_start,
)
from model import Prompts
from model.common.exchange import LostRankError, in_step
from model.common.ranks import num_ranks
from model.common.sharded_tensors import is_sharded
from model.prior.logits import NaNLogitsError


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite. The parameters are as before the step."""


class NonFiniteGuideError(FloatingPointError):
    """The guide gives NaN at the parameters that the last step left. The step is undone."""


COMMON = (NonFiniteLossError, NonFiniteGradientError, NaNLogitsError)
"""Errors that all ranks of a sharded guide raise, since they compute or exchange the numbers."""


def _snapshot(state: FitState) -> Callable[[], None]:
    """Function that restores all but parameters and moments, which the optimiser restores."""
    step, objective, generators = state.step, state.objective, random_state.capture()
    num_responses, reward = state.num_responses, state.reward
    tensors, objective_steps = objective.copy_state(), objective.step_count

    def restore() -> None:
        state.step, state.num_responses, state.reward = step, num_responses, reward
        state.health.drop_after(step)
        objective.set_state(tensors)
        objective.step_count = objective_steps
        random_state.restore(*generators)

    return restore


class Rollback:
    """Restores a fit's state after a failed step, and tries the guide on that step's prompts."""

    def __init__(self, state: FitState) -> None:
        self._state = state
        self._restore_before_last: Callable[[], None] | None = None

    @contextmanager
    def step(self, prompts: Prompts) -> Iterator[None]:
        """Run one step of the fit on some prompts. After a failure the state is as before the step.

        Raises:
            NonFiniteGuideError: if the step before left a guide that gives NaN; both are undone.
            NonFiniteStartError: if the first step failed because of a NaN parameter.
        """
        restore = _snapshot(self._state)
        try:
            with in_step():
                yield
        except BaseException as error:
            restore()
            for parameter in parameters().values():
                parameter.grad = None
            known = (NonFiniteParametersError, LostRankError)
            may_try = isinstance(error, COMMON) or not _gathers(self._state.guide)
            if isinstance(error, Exception) and not isinstance(error, known) and may_try:
                self._undo_last_if_to_blame(error, prompts)
                restore()  # the trial of the guide drew random numbers
            raise
        self._restore_before_last = restore

    def _undo_last_if_to_blame(self, error: Exception, prompts: Prompts) -> None:
        if self._restore_before_last is None:
            check_start(parameters())
            return
        if gives_numbers(self._state.guide, prompts) or not self._state.optimizer.undo():
            return
        self._restore_before_last()
        raise NonFiniteGuideError(
            f"the guide has no numbers at the parameters of step {self._state.step + 1}, which was "
            f"undone ({error}). Look for a learning rate too high, or a half-precision guide."
        ) from error


def _gathers(guide: Program) -> bool:
    """True if all ranks must run the guide together. A plain function may hold any network."""
    if num_ranks() == 1:
        return False
    return not isinstance(guide, nn.Module) or any(map(is_sharded, guide.parameters()))


def gives_numbers(guide: Program, prompts: Prompts) -> bool:
    """True unless the guide gives NaN at its parameters; other errors of its code do not count."""
    trial = _SiteTrial()
    # an error of the guide's own code is the error of the step
    with suppress(Exception), torch.no_grad(), pyro.validation_enabled(False), trial:
        poutine.trace(guide).get_trace(prompts)
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
            with in_step():
                value = msg["fn"].sample()
                self.sound &= not bool(msg["fn"].log_prob(value).isnan().any())
        except LostRankError:  # says nothing of the guide
            raise
        except (ArithmeticError, ValueError, RuntimeError):
            self.sound = False

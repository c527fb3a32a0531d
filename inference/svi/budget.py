"""Budget of a fit: a number of steps, of fresh responses, or of seconds.

progress = spent / amount,   the share by which a trust region shrinks
"""

from abc import ABC
from time import perf_counter
from typing import ClassVar

from tqdm import tqdm

from inference.svi.checkpoint.folder import CheckpointError
from inference.svi.checkpoint.state import FitState
from inference.svi.options import FitOptions
from model.common import ranks


class Budget(ABC):
    """A budget that a fit spends step by step.

    Args:
        amount: size of the budget.
    """

    name: ClassVar[str]  # argument of `fit` that sets the budget
    unit: ClassVar[str]  # unit of the amount
    counter: ClassVar[str]  # attribute of `FitState` that counts the amount that is spent
    limits_resumes: ClassVar[bool] = True  # True if a checkpoint that has spent more is refused

    def __init__(self, amount: float) -> None:
        self.amount = amount
        self._start = 0.0

    def spent(self, state: FitState) -> float:
        """Amount that the fit has spent."""
        return getattr(state, self.counter)

    def progress(self, state: FitState) -> float:
        """Share of the budget that is spent before the next step, between 0 and 1."""
        return min(1.0, self.spent(state) / self.amount)

    def is_spent(self, state: FitState) -> bool:
        """True if the budget has no further step."""
        return self.spent(state) >= self.amount

    def start(self, state: FitState) -> None:
        """Start the clock, from the seconds before a resume; refuse a state beyond the budget."""
        if self.limits_resumes and self.spent(state) > self.amount:
            raise CheckpointError(
                f"the checkpoint is of {self.unit} {self.spent(state)}, expected at most "
                f"{self.name}={self.amount}: ask for more {self.unit}s, or name another folder"
            )
        self._start = perf_counter() - state.seconds

    def tick(self, state: FitState) -> float:
        """Set the seconds of a fit after a step, by the clock of the first rank.

        Returns:
            Number of seconds of the step.
        """
        before, state.seconds = state.seconds, ranks.of_first(perf_counter() - self._start)
        return state.seconds - before

    def bar(self, state: FitState, *, shown: bool) -> tqdm:
        """Progress bar in the unit of the budget."""
        start = round(self.spent(state))
        hidden = not (shown and ranks.is_first())
        return tqdm(None, "fit", self.amount, initial=start, unit=self.unit, disable=hidden)


class Steps(Budget):
    """A number of steps."""

    name, unit, counter = "num_steps", "step", "step"


class Responses(Budget):
    """A number of fresh responses, over all prompts. A step on earlier responses costs nothing.

    Args:
        amount: number of responses; the last step stays within the amount.
        per_step: number of responses of a step that draws.
    """

    name, unit, counter = "num_responses", "response", "num_responses"

    def __init__(self, amount: float, per_step: int) -> None:
        super().__init__(amount)
        self.per_step = per_step

    def progress(self, state: FitState) -> float:
        """Share of the responses drawn before those of the next step."""
        own = self.per_step if state.objective.reuses_draws else 0
        return max(0, state.num_responses - own) / self.amount

    def is_spent(self, state: FitState) -> bool:
        return (
            not state.objective.reuses_draws and state.num_responses + self.per_step > self.amount
        )


class Seconds(Budget):
    """A number of seconds, those before a resume included. The last step may end later."""

    name, unit, counter, limits_resumes = "max_seconds", "second", "seconds", False


def new_budget(options: FitOptions, num_particles: int, num_prompts: int) -> Budget:
    """The budget of a fit, of the one amount in its options."""
    if options.num_steps is not None:
        return Steps(options.num_steps)
    if options.max_seconds is not None:
        return Seconds(options.max_seconds)
    assert options.num_responses is not None
    per_step = num_particles * min(options.prompts_per_step or num_prompts, num_prompts)
    if options.num_responses < per_step:
        fault = f"num_responses is {options.num_responses}, expected at least {per_step}"
        raise ValueError(f"{fault}: the fresh responses of one step")
    return Responses(options.num_responses, per_step)

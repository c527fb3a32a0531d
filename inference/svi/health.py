"""Health of a fit, seen on the draws of its steps: warnings, and the end of progress.

The numbers of a step are of the guide before the step. Means are over the last `WINDOW` steps with
fresh draws. Each warning comes once.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from inference.estimate import Estimate
from inference.svi.draw_record import DrawNumbers

WINDOW = 10
"""Number of steps behind a mean."""
SURE = 3.0  # standard errors between the ELBO and its start, above which `fit` warns
COLLAPSE = 0.5  # share of the entropy at the start, below which `fit` warns
PATIENCE = 80  # smallest number of steps without gain that ends a fit
FEWEST = 5  # smallest number of steps whose differences tell their noise


def mean_of_steps(
    values: Sequence[float], variances: Sequence[float], series: Sequence[float]
) -> Estimate:
    """Mean of the numbers of successive steps, with its standard error.

    The error is from the variances of the steps if all are known. Otherwise it is from the
    differences of successive steps in the whole series, in which a trend hardly counts (von Neumann
    1941); infinite for a short series.
    """
    num = len(values)
    mean = sum(values) / num
    if all(map(math.isfinite, variances)):
        return Estimate(mean, math.sqrt(sum(variances)) / num)
    if len(series) < FEWEST:
        return Estimate(mean, math.inf)
    squares = [(later - earlier) ** 2 for earlier, later in pairwise(series)]
    return Estimate(mean, math.sqrt(sum(squares) / (2 * len(squares) * num)))


class StepNumbers(NamedTuple):
    """Numbers of a step with fresh draws: of the draws, and of E_q[log likelihood]; nats."""

    step: float
    elbo: float
    variance: float
    entropy: float
    log_likelihood: float


class Health:
    """Numbers of all steps with fresh draws, warnings, and the test for the end of progress.

    Attributes:
        warnings: sentences by kind, each with step and numbers.
    """

    def __init__(self) -> None:
        self.warnings: dict[str, str] = {}
        self._steps: list[StepNumbers] = []

    def add(self, step: int, numbers: DrawNumbers, log_likelihood: float) -> None:
        """Add the numbers of a step with fresh draws."""
        self._steps.append(StepNumbers(step, *numbers, log_likelihood))

    def drop_after(self, step: int) -> None:
        """Drop the numbers of steps that were undone."""
        self._steps = [numbers for numbers in self._steps if numbers.step <= step]

    @property
    def elbo(self) -> Estimate:
        """ELBO of the last steps, nats; NaN without one."""
        return self._elbo(self._steps[-WINDOW:]) if self._steps else Estimate(math.nan, math.nan)

    def check(self, *, ascends_elbo: bool) -> list[str]:
        """Return the warnings that are new after the last step."""
        faults = {"entropy": self._collapse()}
        if ascends_elbo:
            faults["elbo"] = self._fall()
        new = {kind: text for kind, text in faults.items() if text and kind not in self.warnings}
        self.warnings |= new
        return list(new.values())

    def _fall(self) -> str:
        """Warning of an ELBO below the ELBO of the first step by more than noise, or nothing."""
        if not self._steps:
            return ""
        is_known = math.isfinite(self._steps[0].variance)
        start, now = self._elbo(self._steps[: 1 if is_known else FEWEST]), self.elbo
        error = math.hypot(now.standard_error, start.standard_error)
        if not now.value < start.value - SURE * error:
            return ""
        return (
            f"step {self._steps[-1].step:.0f}: the ELBO of the last steps is {now} nats, below "
            f"{start} nats at the start of the fit. The guide moves away from the posterior: take "
            "smaller steps, or more responses in each"
        )

    def _collapse(self) -> str:
        """Warning of an entropy that fell where the likelihood did not rise, or nothing."""
        first, last = self._steps[:FEWEST], self._steps[-WINDOW:]
        if len(self._steps) <= FEWEST:
            return ""
        start, now = (self._unknown(part, "entropy") for part in (first, last))
        error = math.hypot(now.standard_error, COLLAPSE * start.standard_error)
        if not 0 < now.value + SURE * error < COLLAPSE * start.value:
            return ""
        before, after = (self._unknown(part, "log_likelihood") for part in (first, last))
        error = math.hypot(after.standard_error, before.standard_error)
        if not after.value < before.value + 2 * error:
            return ""
        return (
            f"step {self._steps[-1].step:.0f}: the entropy of the guide fell from {start} nats at "
            f"the start of the fit to {now}, and the log likelihood did not rise beyond its noise "
            f"({before} nats then, {after} now). The guide collapses: take smaller steps, or more "
            "responses in each"
        )

    def end_of_progress(self) -> str | None:
        """Sentence about an ELBO that did not rise in the last half of the steps; None if it rose.

        The ELBO of the last quarter is compared with the quarter before. Quarters grow with the
        fit, so that a slow gain has the time to show. A steady gain of 0.02 nats a step, at noise
        of 1 nat a step, ended none of 200 simulated fits; without gain, half ended at step 162.
        """
        size = len(self._steps) // 4
        if size < PATIENCE // 2:
            return None
        late, early = self._elbo(self._steps[-size:]), self._elbo(self._steps[-2 * size : -size])
        gain = late.value - early.value
        error = math.hypot(late.standard_error, early.standard_error)
        if gain > 0:
            return None
        return (
            f"step {self._steps[-1].step:.0f}: the gain of the ELBO is below its noise, "
            f"{gain / size:.4f} ± {error / size:.4f} nats a step over the last {2 * size} steps"
        )

    def _elbo(self, steps: Sequence[StepNumbers]) -> Estimate:
        return mean_of_steps(_column(steps, "elbo"), _column(steps, "variance"), self._all("elbo"))

    def _unknown(self, steps: Sequence[StepNumbers], name: str) -> Estimate:
        """Mean of a number whose variance in a step is unknown."""
        return mean_of_steps(_column(steps, name), [math.nan], self._all(name))

    def _all(self, name: str) -> list[float]:
        return _column(self._steps, name)

    def get_state(self) -> dict[str, Tensor]:
        """Numbers of all steps for a checkpoint, `[steps, 5]`."""
        return {"steps": torch.tensor(self._steps, dtype=torch.float64).reshape(-1, 5)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take a state from `get_state`."""
        self._steps = [StepNumbers(*numbers) for numbers in state["steps"].tolist()]


def _column(steps: Sequence[StepNumbers], name: str) -> list[float]:
    return [getattr(numbers, name) for numbers in steps]

"""Health of a fit, seen on the draws of its steps: warnings, and the end of progress.

The numbers of a step are of the guide before the step. Means are over the last `WINDOW` steps with
fresh draws. Each warning comes once.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from inference.estimate import Estimate
from inference.svi.step_numbers import DrawNumbers

WINDOW = 10  # number of steps behind a mean
SURE = 3.0  # standard errors between the ELBO and its start, above which `fit` warns
COLLAPSE = 0.5  # share of the entropy at the start, below which `fit` warns
PATIENCE = 80  # smallest number of steps without gain that ends a fit
FEWEST = 5  # smallest number of steps whose differences tell their noise
FIRST, LAST = slice(FEWEST), slice(-WINDOW, None)  # steps at the start and at the end


class Series:
    """A number of each of successive steps.

    Attributes:
        values: the numbers.
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values: list[float] = []
        self._sum_of_squares = 0.0
        for value in values:
            self.append(value)

    def append(self, value: float) -> None:
        """Add the number of the next step."""
        if self.values:
            self._sum_of_squares += (value - self.values[-1]) ** 2
        self.values.append(value)

    @property
    def noise(self) -> float:
        """Variance of a number, from all differences of successive numbers.

        A trend hardly counts (von Neumann 1941). Infinite for a short series.
        """
        num_differences = len(self.values) - 1
        if len(self.values) < FEWEST:
            return math.inf
        return self._sum_of_squares / (2 * num_differences)


def mean_of_steps(values: Sequence[float], variances: Sequence[float], noise: float) -> Estimate:
    """Mean of the numbers of successive steps, with its standard error.

    Args:
        values: numbers of some steps.
        variances: variance of each number; NaN if unknown.
        noise: variance of each number if one of `variances` is unknown.
    """
    num = len(values)
    mean = sum(values) / num
    if all(map(math.isfinite, variances)):
        return Estimate(mean, math.sqrt(sum(variances)) / num)
    return Estimate(mean, math.sqrt(noise / num))


COLUMNS = (*DrawNumbers._fields, "log_likelihood")
"""Numbers of a step with fresh draws: of the draws, and of E_q[log likelihood]; nats."""


class Health:
    """Numbers of all steps with fresh draws, warnings, and the test for the end of progress.

    Attributes:
        warnings: sentences by kind, each with step and numbers.
    """

    def __init__(self) -> None:
        self.warnings: dict[str, str] = {}
        self._steps: list[int] = []
        self._num_idle = 0
        self._series = {name: Series() for name in COLUMNS}

    def add(self, step: int, numbers: DrawNumbers, log_likelihood: float, grad_norm: float) -> None:
        """Add the numbers of a step with fresh draws."""
        self._steps.append(step)
        is_idle = numbers.elbo == -math.inf and grad_norm == 0
        self._num_idle = self._num_idle + 1 if is_idle else 0
        for series, value in zip(self._series.values(), (*numbers, log_likelihood), strict=True):
            series.append(value)

    def drop_after(self, step: int) -> None:
        """Drop the numbers of steps that were undone."""
        num = bisect_right(self._steps, step)
        if num < len(self._steps):
            self._num_idle = max(0, self._num_idle - len(self._steps) + num)
            del self._steps[num:]
            self._series = {name: Series(each.values[:num]) for name, each in self._series.items()}

    @property
    def elbo(self) -> Estimate:
        """ELBO of the last steps, nats; NaN without one."""
        return self._mean("elbo", LAST) if self._steps else Estimate(math.nan, math.nan)

    def check(self, *, ascends_elbo: bool) -> list[str]:
        """Return the warnings that are new after the last step."""
        now = {"entropy": self._collapse(), "gradient": self._idleness()}
        if ascends_elbo:
            now["elbo"] = self._fall()
        new = {kind: text for kind, text in now.items() if text and kind not in self.warnings}
        self.warnings |= new
        return list(new.values())

    def _idleness(self) -> str:
        """Warning of steps whose draws were impossible and gave no gradient, or nothing."""
        if self._num_idle < WINDOW:
            return ""
        return (
            f"step {self._steps[-1]}: the last {self._num_idle} steps had impossible responses and "
            "a gradient of 0, so that the guide learns nothing. Draw more responses in each step, "
            "start from a guide that draws possible responses, or soften the hard constraints "
            "(`inference.anneal`)"
        )

    def _fall(self) -> str:
        """Warning of an ELBO below the ELBO of the first step by more than noise, or nothing."""
        if not self._steps:
            return ""
        is_known = math.isfinite(self._series["variance"].values[0])
        start, now = self._mean("elbo", slice(1 if is_known else FEWEST)), self.elbo
        error = math.hypot(now.standard_error, start.standard_error)
        if not now.value < start.value - SURE * error:
            return ""
        return (
            f"step {self._steps[-1]}: the ELBO of the last steps is {now} nats, below "
            f"{start} nats at the start of the fit. The guide moves away from the posterior: take "
            "smaller steps, or more responses in each"
        )

    def _collapse(self) -> str:
        """Warning of an entropy that fell where the likelihood did not rise, or nothing."""
        if len(self._steps) <= FEWEST:
            return ""
        start, now = (self._mean("entropy", part) for part in (FIRST, LAST))
        error = math.hypot(now.standard_error, COLLAPSE * start.standard_error)
        if not 0 < now.value + SURE * error < COLLAPSE * start.value:
            return ""
        before, after = (self._mean("log_likelihood", part) for part in (FIRST, LAST))
        error = math.hypot(after.standard_error, before.standard_error)
        if not after.value < before.value + 2 * error:
            return ""
        return (
            f"step {self._steps[-1]}: the entropy of the guide fell from {start} nats at "
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
        quarters = slice(-size, None), slice(-2 * size, -size)
        late, early = (self._mean("elbo", quarter) for quarter in quarters)
        gain = late.value - early.value
        error = math.hypot(late.standard_error, early.standard_error)
        if gain > 0:
            return None
        return (
            f"step {self._steps[-1]}: the gain of the ELBO is below its noise, "
            f"{gain / size:.4f} ± {error / size:.4f} nats a step over the last {2 * size} steps"
        )

    def _mean(self, name: str, part: slice) -> Estimate:
        """Mean over some of the steps. The variance within a step is known for the ELBO alone."""
        series = self._series[name]
        variances = self._series["variance"].values[part] if name == "elbo" else [math.nan]
        return mean_of_steps(series.values[part], variances, series.noise)

    def get_state(self) -> dict[str, Tensor]:
        """Numbers of all steps, `[steps, 5]`, and the number of last steps without gradient."""
        columns = [self._steps, *(series.values for series in self._series.values())]
        steps = torch.tensor(columns, dtype=torch.float64).t().contiguous()
        return {"steps": steps, "num_idle": torch.tensor(self._num_idle)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take a state from `get_state`."""
        steps, *columns = state["steps"].t().tolist()
        self._steps = [int(step) for step in steps]
        self._num_idle = int(state["num_idle"]) if "num_idle" in state else 0
        self._series = {n: Series(values) for n, values in zip(COLUMNS, columns, strict=True)}

"""Means under weights, and estimates with a standard error. NaN is an error, never a number."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy import special
from torch import Tensor

from model.common.checks import first_index, instance

NORMAL = special.ndtr(2.0)
"""Probability that a normal number is at most two standard deviations above its mean."""
REFUTED = 3.0
"""Number of standard errors by which an estimate refutes a known number or bound.

The two errors of `Estimate.is_clear_of` are for findings of an unknown number. Of the many numbers
that are checked against what is known, two would refuse one in 22 by chance in either direction,
three one in 370.
"""


class NotANumberError(FloatingPointError):
    """A weight, a probability or a value to average is NaN, or infinite where it may not be."""


def check_numbers(name: str, values: Tensor, *, infinite: bool = False) -> Tensor:
    """The values, of any shape, in float64. -inf, the log of 0, is allowed.

    Raises:
        NotANumberError: if a value is NaN, or +inf unless `infinite`; with place and number.
    """
    if instance(name, values, Tensor).is_complex():
        raise TypeError(f"{name} is of type {values.dtype}, expected real numbers")
    bad = values.isnan() if infinite else values.isnan() | values.isposinf()
    if (where := first_index(bad)) is not None:
        raise NotANumberError(
            f"{name} is {values[where].item()} at index {where} and no number in {int(bad.sum())} "
            f"of {bad.numel()} places, expected numbers{'' if infinite else ', or -inf'}. Look for "
            "NaN in the guide's parameters or in the reward"
        )
    return values.double()


def check_draws(name: str, values: Tensor, *, infinite: bool = False) -> Tensor:
    """`check_numbers` for M numbers to each of N prompts, `[M, N]`, at least one."""
    shape = tuple(instance(name, values, Tensor).shape)
    if len(shape) != 2 or 0 in shape:
        expected = "expected [M, N]: M samples for each of N prompts, at least one"
        raise ValueError(f"{name} has shape {shape}, {expected}")
    return check_numbers(name, values, infinite=infinite)


def expectation(prob: Tensor, values: Tensor) -> Tensor:
    """sum_x p(x) f(x) over the first dimension, `[S, ...]` -> `[...]`.

    A term of probability exactly 0 counts as 0, even if f is infinite or NaN. A probability of NaN
    makes the sum NaN.
    """
    return (prob * torch.where(prob == 0, 0.0, values)).sum(0)


class Estimate(NamedTuple):
    """A number estimated from samples, and the standard error of the estimate.

    The standard error is NaN for a single sample and for an infinite value. Intervals of 1.96
    errors hold in 95% of many samples of normal numbers, in 94% of 30, 91% of 8, 86% of 4 and 70%
    of 2 numbers, and less often where large values are rare.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"{self.value}"
        error = "unknown" if math.isnan(self.standard_error) else f"{self.standard_error:.3f}"
        return f"{self.value:z.3f} ± {error}"  # z: never -0.000

    @classmethod
    def of_mean(cls, values: Tensor) -> Estimate:
        """Estimate of E[f], averaged over prompts, from independent values `[M, N]`, none NaN."""
        values = check_draws("values", values, infinite=True)
        return cls.of_influence(values.mean(0), values - values.mean(0))

    @classmethod
    def of_share(cls, values: Tensor) -> Estimate:
        """Estimate of a probability, averaged over prompts, from values `[M, N]` from 0 to 1.

        The standard error counts one success and one failure more, as Laplace's rule does: a share
        of 0 or 1 among M draws has an error of about 1/M, and not 0.
        """
        values = check_draws("values", values)
        size = len(values)
        share = (values.sum(0) + 1) / (size + 2)
        variance = share * (1 - share) / size  # [N]
        return cls(values.mean().item(), variance.sum().sqrt().item() / values.shape[1])

    @classmethod
    def of_levels(cls, values: Tensor) -> Estimate:
        """`of_mean` for values `[M, N]` such as rewards, which may have two levels alone.

        The share of the upper level then has the standard error of `of_share`: a prompt whose draws
        all have one level adds to the error. Of a single level the standard error is 0, and says
        nothing of levels that no draw has: see `is_constant`.
        """
        mean = cls.of_mean(values)
        levels = values.double().unique()
        if len(levels) != 2 or not math.isfinite(mean.standard_error):
            return mean
        low, width = levels[0], levels[1] - levels[0]
        return cls(mean.value, cls.of_share((values.double() - low) / width).times(width.item())[1])

    @property
    def is_constant(self) -> bool:
        """True if the standard error is 0 up to rounding: the draws to a prompt have one value."""
        return self.standard_error <= 1e-12 * abs(self.value)

    @classmethod
    def of_influence(cls, value: Tensor, *influence: Tensor) -> Estimate:
        """Estimate of a smooth function of means, averaged over prompts (delta method).

        Args:
            value: `[N]`, the estimate for each prompt.
            influence: one tensor `[M, N]` for each of several independent samples: M times the
                change of the estimate by each draw, mean zero.

        Raises:
            NotANumberError: if a value is NaN.
        """
        mean, _ = cls.exact(value)
        if any(len(of_sample) < 2 for of_sample in influence):
            return cls(mean, math.nan)
        variance = torch.zeros_like(influence[0][0], dtype=torch.float64)
        for of_sample in influence:
            size = len(of_sample)
            variance = variance + of_sample.double().square().sum(0) / (size - 1) / size  # [N]
        return cls(mean, math.sqrt(variance.sum().item()) / len(variance))

    @classmethod
    def exact(cls, value: Tensor) -> Estimate:
        """A number known for each prompt, `[N]`, averaged over prompts; the standard error is 0."""
        return cls(check_numbers("an estimate", value, infinite=True).mean().item(), 0.0)

    def is_clear_of(self, *limits: float, num_runs: float = math.inf) -> bool:
        """True if the value is at least two standard errors from all limits, or exact.

        If the error is over a few runs, Student's t replaces the two, for the same confidence: 14
        for two runs, 3.3 for four. No value of unknown error, NaN, is clear, also if infinite: a
        caller for whom one infinite draw is proof says so.
        """
        if self.standard_error == 0:
            return True
        num_errors = 2.0 if num_runs == math.inf else float(special.stdtrit(num_runs - 1, NORMAL))
        noise = num_errors * self.standard_error
        return all(abs(self.value - limit) >= noise for limit in limits)

    def is_above(self, limit: float) -> bool:
        """True if the value is above a limit, and clear of the limit."""
        return self.value > limit and self.is_clear_of(limit)

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit."""
        return Estimate(self.value * factor, self.standard_error * abs(factor))

    def minus(self, other: Estimate) -> Estimate:
        """Difference of two estimates from independent samples."""
        error = math.hypot(self.standard_error, other.standard_error)
        return Estimate(self.value - other.value, error)


def log_mean(log_weight: Tensor) -> Tensor:
    """Log of the mean weight over M samples, `[M, N]` -> `[N]`, nats, float64.

    exp of the result is unbiased; the result itself is biased low (Jensen). NaN if a weight is NaN.
    """
    return log_weight.double().logsumexp(0) - math.log(len(log_weight))


def log_mean_exp(log_weight: Tensor) -> Estimate:
    """log mean exp(log_weight) over samples `[M, N]`, nats, averaged over prompts.

    Biased low (Jensen), by about half the squared standard error.

    Raises:
        NotANumberError: if a weight is NaN or +inf.
    """
    log_weight = check_draws("log_weight", log_weight)
    value = log_mean(log_weight)
    return Estimate.of_influence(value, (log_weight - value).exp() - 1)

"""An estimate and its standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A number estimated from samples, with the standard error of that estimate."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.3f}" if math.isfinite(self.value) else f"{self.value}"

    @classmethod
    def of_mean(cls, values: Tensor) -> Estimate:
        """Of E[f], averaged over prompts, from independent values `[M, N]`: M samples for each of N prompts."""
        return cls.of_influence(values.double().mean(0), values - values.mean(0))

    @classmethod
    def of_influence(cls, value: Tensor, influence: Tensor) -> Estimate:
        """Of a smooth function of means, averaged over prompts (the delta method).

        Args:
            value: `[N]`, the estimate for each prompt.
            influence: `[M, N]`, how far each of M independent samples moves it, mean zero.
        """
        num_samples, num_prompts = influence.shape
        variance = influence.double().square().sum(0) / max(1, num_samples - 1) / num_samples  # [N]
        return cls(value.mean().item(), math.sqrt(variance.sum().item()) / num_prompts)

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit."""
        return Estimate(self.value * factor, self.standard_error * abs(factor))

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two estimates from independent samples."""
        return Estimate(self.value - other.value, math.hypot(self.standard_error, other.standard_error))


def log_mean(log_weight: Tensor) -> Tensor:
    """log of the mean weight over M samples, `[M, N]` -> `[N]`, nats; its exp is unbiased, itself it is biased low (Jensen)."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def log_mean_exp(log_weight: Tensor) -> Estimate:
    """log mean exp(log_weight) over samples, averaged over prompts. Biased low (Jensen), by about half its squared error.

    Args:
        log_weight: `[M, N]`, nats.
    """
    log_weight = log_weight.double()
    value = log_mean(log_weight)
    return Estimate.of_influence(value, (log_weight - value).exp() - 1)

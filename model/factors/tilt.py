"""Exponential tilt, which moves the means of some features (Khalifa et al. 2021, arXiv 2012.11635).

    p(x) = p0(x) exp(lambda . phi(x)) / Z(lambda)

Of all distributions with the same means E[phi], p is the nearest to the prior in KL(p || p0)
(Csiszar 1975). `inference.match_moments` computes the multipliers for given means.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from model.common.checks import finite, instance
from model.likelihood import Reward, applies_to, check_reward
from model.prior.prompts import Prompts
from model.rewards.weighted_sum import WeightedSum


class Tilt:
    """log f(x) = lambda . phi(x) = sum_i lambda_i phi_i(x), nats.

    Args:
        features: phi, rewards by name.
        multipliers: lambda, by the same names, nats per unit of the feature.
    """

    unit: ClassVar = "nat"

    def __init__(self, features: Mapping[str, Reward], multipliers: Mapping[str, float]) -> None:
        instance("features", features, Mapping)  # type: ignore[type-abstract]
        instance("multipliers", multipliers, Mapping)  # type: ignore[type-abstract]
        if features.keys() != multipliers.keys():
            names = f"features are {sorted(features)} and multipliers {sorted(multipliers)}"
            raise ValueError(f"{names}, expected the same names")
        self.features, self.multipliers, used = dict(features), {}, {}
        for name, feature in features.items():
            check_reward(f"feature {name!r}", feature)
            multiplier = finite(f"the multiplier of {name!r}", multipliers[name])
            self.multipliers[name] = multiplier
            if multiplier != 0:
                used[name] = multiplier, feature
        self._sum = WeightedSum(used) if used else None
        self.upper_bound = 0.0 if self._sum is None else self._sum.upper_bound

    def components(self) -> list[Reward]:
        """The features."""
        return list(self.features.values())

    def applies(self, prompts: Prompts) -> Tensor:
        """True for the prompts to which a feature applies, `[N]`; all without a multiplier."""
        return applies_to("the tilt", self._sum, prompts)

    def bound_at(self, prompts: Prompts) -> float | Tensor | None:
        """The upper bound at each prompt, one number or `[N]`, nats; None if unknown."""
        return 0.0 if self._sum is None else self._sum.bound_at(prompts)

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """log f of responses `[..., N, T]`, `[..., N]`, nats, float64.

        NaN for a prompt to which no feature applies.
        """
        if self._sum is None:
            return response.new_zeros(response.shape[:-1], dtype=torch.float64)
        return self._sum(prompts, response)

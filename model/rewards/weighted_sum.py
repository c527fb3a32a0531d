"""Weighted sums of rewards; with an `Expert` among the parts, products of language models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.common.checks import finite, instance
from model.likelihood import (
    Reward,
    check_callable,
    check_product,
    check_unit,
    check_values,
    for_each_prompt,
    upper_bound_of,
)
from model.prior.prompts import Prompts


class WeightedSum:
    """r(x) = sum_i w_i r_i(x).

    The upper bound is that of the parts, if each part has a bound and no weight is negative.

    Args:
        parts: by name, a weight and a reward.

    Raises:
        ValueError: if there are no parts, a weight is 0 or not finite, or a part is a factor.
        TypeError: if the parts are no mapping, or a part is not a weight and a callable reward.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        if not instance("parts", parts, Mapping):  # type: ignore[type-abstract]
            raise ValueError(
                "got no parts, expected at least one by name, such as {'fluency': (0.5, reward)}"
            )
        for name, part in parts.items():
            if not isinstance(part, tuple | list) or len(part) != 2:
                raise TypeError(f"the part {name!r} is {part!r}, expected a weight and a reward")
            weight, reward = part
            check_callable(f"reward {name!r}", reward)
            check_unit(f"reward {name!r}", reward)
            if finite(f"the weight of {name!r}", weight) == 0:
                raise ValueError(
                    f"the weight of {name!r} is 0, expected a finite number other than 0: leave the part out"
                )
        self.parts = dict(parts)
        bounds = [
            weight * bound
            for name, (weight, reward) in self.parts.items()
            if weight > 0 and (bound := upper_bound_of(f"reward {name!r}", reward)) is not None
        ]
        self.upper_bound: float | None = sum(bounds) if len(bounds) == len(self.parts) else None

    def components(self) -> list[Reward]:
        """The rewards that are added up."""
        return [reward for _, reward in self.parts.values()]

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """`[..., N]` for responses `[..., N, T]`, float64."""
        response = for_each_prompt(prompts, response)
        total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
        for name, (weight, reward) in self.parts.items():
            label = f"reward {name!r}"
            value = check_values(label, reward(prompts, response), response.shape[:-1])
            total = total + check_product(
                label, value, weight * value, f"times its weight, {weight:g}"
            )
        return total

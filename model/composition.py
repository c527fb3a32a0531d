"""Evidence made of evidence: weighted sums, and with experts in them products of language models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.checks import finite, instance
from model.constraints import Constraint
from model.evidence import (
    Evidence,
    at_beta,
    check_evidence,
    check_product,
    check_reward,
    for_each_prompt,
    upper_bound_of,
)
from model.prompts import Prompts


class WeightedSum:
    """r(x) = sum_i w_i r_i(x).

    Its upper bound is that of its parts, if each of them knows its own and no weight is negative.

    Args:
        parts: by name, a weight and its evidence. A hard constraint has any positive weight.

    Raises:
        ValueError: if there are no parts, a weight is 0 or not finite, or negative for a hard constraint.
        TypeError: if the parts are no mapping, or one is no weight and callable evidence.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Evidence]]) -> None:
        if not instance("parts", parts, Mapping):  # type: ignore[type-abstract]
            raise ValueError("got no parts, expected at least one by name, such as {'fluency': (0.5, evidence)}")
        for name, part in parts.items():
            if not isinstance(part, tuple | list) or len(part) != 2:
                raise TypeError(f"the part {name!r} is {part!r}, expected a weight and its evidence")
            weight, evidence = part
            check_evidence(name, evidence)
            if finite(f"the weight of {name!r}", weight) == 0:
                raise ValueError(f"the weight of {name!r} is 0, expected a finite number other than 0: leave the part out")
            if weight < 0 and isinstance(evidence, Constraint):
                raise ValueError(f"{name!r} is a hard constraint, with weight {weight}: state its opposite, with `at_most`")
        self.parts = dict(parts)
        stated = [(weight, upper_bound_of(name, evidence)) for name, (weight, evidence) in self.parts.items()]
        bounds = [weight * bound for weight, bound in stated if weight > 0 and bound is not None]
        self.upper_bound: float | None = sum(bounds) if len(bounds) == len(self.parts) else None

    def components(self) -> list[Evidence]:
        """The evidence of its parts."""
        return [evidence for _, evidence in self.parts.values()]

    def at_beta(self, beta: float | Mapping[str, float]) -> WeightedSum:
        """The sum of its parts at this beta; itself, if none of them depends on it.

        Raises:
            ValueError: if one does whose weight is not 1.
        """
        parts = {name: (weight, at_beta(evidence, beta)) for name, (weight, evidence) in self.parts.items()}
        changed = [name for name, (_, evidence) in self.parts.items() if parts[name][1] is not evidence]
        for name in changed:
            if (weight := self.parts[name][0]) != 1:
                raise ValueError(
                    f"{name!r} depends on beta and has the weight {weight:g}, expected 1: a multiple of it is not "
                    "what comes of a multiple of what it is made of. Weigh that, or change beta"
                )
        return WeightedSum(parts) if changed else self

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """`[..., N]` for responses `[..., N, T]`, float64."""
        response = for_each_prompt(prompts, response)
        total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
        for name, (weight, evidence) in self.parts.items():
            reward = check_reward(name, evidence(prompts, response), response.shape[:-1])
            total = total + check_product(name, reward, weight * reward, f"times its weight, {weight:g}")
        return total

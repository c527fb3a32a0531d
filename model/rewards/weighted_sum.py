"""Weighted sums of rewards; with an `Expert` among the parts, products of language models."""

from collections.abc import Mapping

from torch import Tensor

from model.common.checks import finite, instance
from model.common.texts import quoted
from model.likelihood import (
    Reward,
    any_applies,
    bound_at,
    check_product,
    check_reward,
    for_each_prompt,
    upper_bound_of,
)
from model.prior.prompts import Prompts
from model.values import Values, total_of, values_of


class WeightedSum:
    """r(x) = sum_i w_i r_i(x), over the parts that apply to the prompt.

        reward = WeightedSum({"sentiment": (1.0, sentiment), "length": (-0.05, Length(prior))})

    The upper bound is the sum of the parts' bounds, if all are known and all weights positive. The
    sum applies to a prompt if a part does.

    Args:
        parts: a weight, finite and not 0, and a reward, by name.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        if not instance("parts", parts, Mapping):  # type: ignore[type-abstract]
            raise ValueError("got no parts, expected some, such as {'fluency': (0.5, reward)}")
        bounds: list[float] = []
        for name, part in parts.items():
            if not isinstance(part, tuple | list) or len(part) != 2:
                raise TypeError(
                    f"the part {name!r} is {quoted(part)}, expected a weight and a reward"
                )
            weight, reward = part
            check_reward(f"reward {name!r}", reward)
            if finite(f"the weight of {name!r}", weight) == 0:
                raise ValueError(f"the weight of {name!r} is 0: leave the part out")
            bound = upper_bound_of(f"reward {name!r}", reward)
            if bound is not None and weight > 0:
                bounds.append(weight * bound)
        self.parts = dict(parts)
        self.upper_bound: float | None = sum(bounds) if len(bounds) == len(parts) else None

    def components(self) -> list[Reward]:
        """The rewards that are added up."""
        return [reward for _, reward in self.parts.values()]

    def applies(self, prompts: Prompts) -> Tensor:
        """True for the prompts to which a part applies, `[N]`."""
        return any_applies({name: reward for name, (_, reward) in self.parts.items()}, prompts)

    def bound_at(self, prompts: Prompts) -> float | Tensor | None:
        """The upper bound at each prompt, over the parts that apply, one number or `[N]`; or None.

        The sum of fewer parts may have a larger bound.
        """
        if self.upper_bound is None:
            return None
        total: float | Tensor = 0.0
        for name, (weight, reward) in self.parts.items():
            bound = bound_at(f"reward {name!r}", reward, prompts)
            total = total + weight * (0.0 if bound is None else bound)
        return total

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64; NaN where no part applies."""
        response, weighted = for_each_prompt(prompts, response), []
        for name, (weight, reward) in self.parts.items():
            label = f"reward {name!r}"
            value, applies = values_of(label, reward, prompts, response)
            product = check_product(label, value, weight * value, f"times its weight, {weight:g}")
            weighted.append(Values(product, applies))
        return total_of(weighted, response).missing

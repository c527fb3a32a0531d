"""Evidence of an exponential family: what moves the mean of some features, and nothing else (Khalifa et al. 2021, 2012.11635).

    p(x) = p0(x) exp(lambda . phi(x)) / Z(lambda)

Of all distributions with the same means E[phi] it is the nearest to the prior in KL(p || p0) (Csiszar 1975).
`inference.match_moments` finds the multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from model.checks import finite, instance
from model.composition import WeightedSum
from model.evidence import Evidence, at_beta, check_evidence, check_product
from model.per_prompt import beta_at, checked_beta
from model.prompts import Prompts


class Tilt:
    """r(x) = beta sum_i lambda_i phi_i(x), so that r/beta is lambda . phi, in nats, whatever beta.

    Args:
        features: phi, evidence by name.
        multipliers: lambda, by the same names, nats per unit of the feature.
        beta: that of the model whose evidence it is, one or by prompt; the model sets it.

    Raises:
        ValueError: if the names differ, or a multiplier or beta is not finite.
    """

    def __init__(
        self, features: Mapping[str, Evidence], multipliers: Mapping[str, float], beta: float | Mapping[str, float] = 1.0
    ) -> None:
        instance("features", features, Mapping)  # type: ignore[type-abstract]
        instance("multipliers", multipliers, Mapping)  # type: ignore[type-abstract]
        if features.keys() != multipliers.keys():
            raise ValueError(f"features are {sorted(features)} and multipliers {sorted(multipliers)}, expected the same names")
        for name, feature in features.items():
            check_evidence(name, feature)
        self.features = dict(features)
        self.multipliers = {name: finite(f"the multiplier of {name!r}", value) for name, value in multipliers.items()}
        self.beta = checked_beta(beta)
        used = {name: (self.multipliers[name], features[name]) for name in features if self.multipliers[name] != 0}
        self._sum = WeightedSum(used) if used else None
        bound = 0.0 if self._sum is None else self._sum.upper_bound
        self.upper_bound = None if bound is None or isinstance(self.beta, Mapping) else bound * self.beta

    def components(self) -> list[Evidence]:
        """Its features."""
        return list(self.features.values())

    def at_beta(self, beta: float | Mapping[str, float]) -> Tilt:
        """As evidence in a model of this beta, its features too."""
        return Tilt({name: at_beta(feature, beta) for name, feature in self.features.items()}, self.multipliers, beta)

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """`[..., N]` for responses `[..., N, T]`, float64."""
        if self._sum is None:
            return response.new_zeros(response.shape[:-1]).double()
        reward = self._sum(prompts, response)
        return check_product("tilt", reward, beta_at(self.beta, prompts) * reward, "times beta")

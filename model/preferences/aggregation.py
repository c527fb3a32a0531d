"""From a reward that is uncertain to evidence: several ways to make one number of r_s(x), s = 1 .. S.

    marginal-likelihood   beta log mean_s exp(r_s/beta)      what Bayes says: E_w[exp(r_w/beta)]; rewards uncertainty
    mean                  mean_s r_s                         the mean of logs
    lower-bound           mean_s r_s - k std_s r_s           penalises uncertainty
    minimum               min_s r_s                          penalises it more, and the more the larger S

For Gaussian r with mean m and variance v the marginal likelihood is exactly m + v/(2 beta): a bonus for what is not known, the
opposite of the conservative ensembles of Coste et al. 2023 (arXiv 2310.02743). It is no mistake of the algebra: a response that
might be excellent is likely under the posterior over both w and x. Whether that is wanted is another matter, so each is a
choice. From S draws it is at most the largest of them, so that the bonus is too small where v/beta^2 exceeds about 2 log S.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from model.checks import function, one_of, positive
from model.evidence import check_product
from model.preferences.reward import RewardPosterior

Aggregation = Callable[[Tensor, float], Tensor]
"""Takes rewards `[S, M]` and beta, returns `[M]`, in units of reward; those here in float64, whatever the rewards are in."""


def marginal_likelihood(rewards: Tensor, beta: float) -> Tensor:
    """beta log mean_s exp(r_s/beta), `[S, M]` -> `[M]`. Depends on the reference point of the rewards, see `Standardised`."""
    rewards = rewards.double()
    return beta * (check_product("rewards", rewards, rewards / beta, "divided by beta").logsumexp(0) - math.log(len(rewards)))


def mean(rewards: Tensor, beta: float) -> Tensor:
    """mean_s r_s, `[S, M]` -> `[M]`, whatever beta is."""
    return rewards.double().mean(0)


def minimum(rewards: Tensor, beta: float) -> Tensor:
    """min_s r_s, `[S, M]` -> `[M]`, whatever beta is."""
    return rewards.double().min(0).values


def lower_bound(rewards: Tensor, beta: float, k: float = 1.0) -> Tensor:
    """mean_s r_s - k std_s r_s, `[S, M]` -> `[M]`, whatever beta is; std of the S draws as they are, 0 for one."""
    rewards = rewards.double()
    return rewards.mean(0) - k * rewards.std(0, correction=0)


AGGREGATIONS: dict[str, Aggregation] = {
    "marginal-likelihood": marginal_likelihood,
    "mean": mean,
    "lower-bound": lower_bound,
    "minimum": minimum,
}
"""By name, what makes one reward of S."""


@dataclass(frozen=True)
class UncertainReward:
    """A reward known by its posterior, as a function of texts: `TextEvidence(UncertainReward(posterior, "mean"), prior)`.

    Attributes:
        posterior: of the reward.
        aggregation: a name in `AGGREGATIONS`, or a callable like those there.
        beta: reward per nat, that of the `AlignmentModel` it is evidence for, which sets it. Of those there only the
            marginal likelihood looks at it; of other callables it is taken to be so.
    """

    posterior: RewardPosterior
    aggregation: str | Aggregation
    beta: float | None = None

    def __post_init__(self) -> None:
        function("posterior", self.posterior, why="a `RewardPosterior`")
        if isinstance(self.aggregation, str):
            one_of("aggregation", self.aggregation, AGGREGATIONS)
        else:
            function("aggregation", self.aggregation, why=f"or one of {', '.join(AGGREGATIONS)}")
        if self.beta is not None:
            positive("beta", self.beta)

    def at_beta(self, beta: float | Mapping[str, float]) -> UncertainReward:
        """As evidence in a model of this beta; itself, for an aggregation that does not look at it.

        Raises:
            ValueError: if it does, and there is a beta for each prompt: texts do not say to which prompt they belong.
        """
        if not self._looks_at_beta:
            return self
        if isinstance(beta, Mapping):
            raise ValueError(
                f"aggregation {self.aggregation!r} depends on beta, and a text does not say to which prompt it belongs: "
                "expected one beta for all prompts"
            )
        return replace(self, beta=beta)

    @property
    def _looks_at_beta(self) -> bool:
        return all(self._aggregate is not one for one in (mean, lower_bound, minimum))

    @property
    def _aggregate(self) -> Aggregation:
        return AGGREGATIONS[self.aggregation] if isinstance(self.aggregation, str) else self.aggregation

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One reward for each of M texts.

        Raises:
            ValueError: if the aggregation wants a beta, and no model has set it.
        """
        if self._looks_at_beta and self.beta is None:
            raise ValueError(f"aggregation {self.aggregation!r} depends on beta, which is not set: give one, or use a model")
        return self._aggregate(self.posterior(texts), 1.0 if self.beta is None else self.beta).tolist()

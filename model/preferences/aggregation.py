"""Uncertain rewards r_s(x), s = 1 .. S, as one reward, or as a factor: log f(x) = log mean_s exp(r_s(x)/beta).

    marginal-likelihood   log mean_s exp(r_s/beta)   Bayes' rule, E_w[exp(r_w/beta)]: a factor, rewards uncertainty
    mean                  mean_s r_s                 a reward, the mean of the logs
    lower-bound           mean_s r_s - k std_s r_s   a reward, penalises uncertainty
    minimum               min_s r_s                  a reward, penalises uncertainty more, the more the larger S

For Gaussian r with mean m and variance v, beta times the log marginal likelihood is m + v/(2 beta): a bonus for uncertainty, the
opposite of the conservative ensembles of Coste et al. 2023 (arXiv 2310.02743). The bonus is no mistake of the algebra: a
response that might be excellent is likely under the posterior over both w and x. With S draws the bonus is too small where
v/beta^2 exceeds about 2 log S, since the marginal likelihood is at most that of the largest draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from model.alignment import AlignmentModel
from model.common.checks import function, one_of, positive
from model.likelihood import check_product
from model.preferences.reward import RewardPosterior
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.rewards.text import TextReward

Aggregation = Callable[[Tensor], Tensor]
"""Takes rewards `[S, M]`, returns `[M]`, in units of reward; in float64, whatever the dtype of the rewards."""


def mean(rewards: Tensor) -> Tensor:
    """mean_s r_s, `[S, M]` -> `[M]`."""
    return rewards.double().mean(0)


def minimum(rewards: Tensor) -> Tensor:
    """min_s r_s, `[S, M]` -> `[M]`."""
    return rewards.double().min(0).values


def lower_bound(rewards: Tensor, k: float = 1.0) -> Tensor:
    """mean_s r_s - k std_s r_s, `[S, M]` -> `[M]`; the uncorrected standard deviation, 0 for one draw."""
    rewards = rewards.double()
    return rewards.mean(0) - k * rewards.std(0, correction=0)


def log_marginal_likelihood(rewards: Tensor, beta: float) -> Tensor:
    """log mean_s exp(r_s/beta), `[S, M]` -> `[M]`, nats. Depends on the reference point of the rewards, see `Standardised`."""
    rewards = rewards.double()
    scaled = check_product("rewards", rewards, rewards / beta, "divided by beta")
    return scaled.logsumexp(0) - math.log(len(rewards))


REWARD_AGGREGATIONS: dict[str, Aggregation] = {
    "mean": mean,
    "lower-bound": lower_bound,
    "minimum": minimum,
}
"""Functions that make one reward of S, by name."""


def _divided(aggregate: Aggregation) -> Callable[[Tensor, float], Tensor]:
    return lambda rewards, beta: aggregate(rewards) / beta


MARGINAL = "marginal-likelihood"
AGGREGATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    MARGINAL: log_marginal_likelihood,
    **{name: _divided(aggregate) for name, aggregate in REWARD_AGGREGATIONS.items()},
}
"""Log likelihoods of S rewards, by name: take rewards `[S, M]` and beta, return `[M]`, nats."""


@dataclass(frozen=True)
class UncertainReward:
    """A reward known by its posterior, as a function of texts: `TextReward(UncertainReward(posterior, "mean"), prior)`.

    Attributes:
        posterior: posterior of the reward.
        aggregation: a name in `REWARD_AGGREGATIONS`, or a callable with the same signature.
    """

    posterior: RewardPosterior
    aggregation: str | Aggregation

    def __post_init__(self) -> None:
        function("posterior", self.posterior, why="a `RewardPosterior`")
        if self.aggregation == MARGINAL:
            raise ValueError(
                "the marginal likelihood is a factor, in nats: use `MarginalLikelihood`"
            )
        if isinstance(self.aggregation, str):
            one_of("aggregation", self.aggregation, REWARD_AGGREGATIONS)
        else:
            function(
                "aggregation", self.aggregation, why=f"or one of {', '.join(REWARD_AGGREGATIONS)}"
            )

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One reward for each of M texts."""
        aggregate = (
            REWARD_AGGREGATIONS[self.aggregation]
            if isinstance(self.aggregation, str)
            else self.aggregation
        )
        return aggregate(self.posterior(texts)).tolist()


class MarginalLikelihood:
    """The factor log f(x) = log E_w[exp(r_w(x)/beta)], the likelihood with the weights of the reward integrated out.

    Args:
        posterior: posterior of the reward; S draws make the expectation.
        language_model: decodes the responses.
        beta: reward per nat, the same as that of the model.

    Raises:
        ValueError: if beta is not positive.
    """

    unit: ClassVar = "nat"

    def __init__(
        self, posterior: RewardPosterior, language_model: LanguageModel, beta: float
    ) -> None:
        function("posterior", posterior, why="a `RewardPosterior`")
        self.posterior = posterior
        self.beta = positive("beta", beta)
        self._of_texts = TextReward(self._log_mean, language_model, name=MARGINAL)

    def _log_mean(self, texts: Sequence[str]) -> list[float]:
        return log_marginal_likelihood(self.posterior(texts), self.beta).tolist()

    def components(self) -> list[TextReward]:
        """The same function of texts, which knows the language model."""
        return [self._of_texts]

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """`[..., N]` for responses `[..., N, T]`, nats, float64."""
        return self._of_texts(prompts, response)


def uncertain_model(
    prior: LanguageModel, posterior: RewardPosterior, aggregation: str, beta: float
) -> AlignmentModel:
    """The model whose likelihood is an uncertain reward.

    Args:
        prior: p0.
        posterior: posterior of the reward.
        aggregation: a name in `AGGREGATIONS`.
        beta: reward per nat.

    Raises:
        ValueError: for another name.
    """
    one_of("aggregation", aggregation, AGGREGATIONS)
    if aggregation in REWARD_AGGREGATIONS:
        reward = TextReward(UncertainReward(posterior, aggregation), prior)
        return AlignmentModel(prior, reward, beta)
    factors = {MARGINAL: MarginalLikelihood(posterior, prior, beta)}
    return AlignmentModel(prior, {}, beta, factors)

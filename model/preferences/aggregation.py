"""Aggregation: S uncertain rewards r_s(x) as one reward, or as the factor `MarginalLikelihood`.

| name | value | kind | uncertainty |
|---|---|---|---|
| `marginal-likelihood` | log mean_s exp(r_s/beta) | factor, Bayes' rule | is rewarded |
| `mean` | mean_s r_s | reward | does not count |
| `lower-bound` | mean_s r_s - k std_s r_s | reward | is penalised |
| `minimum` | min_s r_s | reward | is penalised, the more the larger S |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.alignment import AlignmentModel
from model.common.checks import function, one_of
from model.factors.marginal_likelihood import MARGINAL, MarginalLikelihood, log_marginal_likelihood
from model.preferences.reward_posterior import RewardPosterior
from model.prior.language_model import LanguageModel
from model.rewards.text import TextReward

Aggregation = Callable[[Tensor], Tensor]
"""Function of rewards `[S, M]` that returns `[M]`, in units of reward, float64."""


def mean(rewards: Tensor) -> Tensor:
    """mean_s r_s, `[S, M]` -> `[M]`."""
    return rewards.double().mean(0)


def minimum(rewards: Tensor) -> Tensor:
    """min_s r_s, `[S, M]` -> `[M]`."""
    return rewards.double().min(0).values


def lower_bound(rewards: Tensor, k: float = 1.0) -> Tensor:
    """mean_s r_s - k std_s r_s, `[S, M]` -> `[M]`.

    The standard deviation is the uncorrected one, 0 for one draw.
    """
    rewards = rewards.double()
    return rewards.mean(0) - k * rewards.std(0, correction=0)


REWARD_AGGREGATIONS = {"mean": mean, "lower-bound": lower_bound, "minimum": minimum}
"""Aggregations to one reward, by name."""


def _divided(aggregate: Aggregation) -> Callable[[Tensor, float], Tensor]:
    return lambda rewards, beta: aggregate(rewards) / beta


AGGREGATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    MARGINAL: log_marginal_likelihood,
    **{name: _divided(aggregate) for name, aggregate in REWARD_AGGREGATIONS.items()},
}
"""Log likelihoods of S rewards, by name: functions of rewards `[S, M]` and beta, `[M]`, nats."""


@dataclass(frozen=True)
class UncertainReward:
    """A reward known by its posterior, as a function of texts for `TextReward`.

        reward = TextReward(UncertainReward(posterior, "mean"), prior, whole=True)

    Attributes:
        posterior: posterior of the reward.
        aggregation: a name in `REWARD_AGGREGATIONS`, or a callable with the same signature.
    """

    posterior: RewardPosterior
    aggregation: str | Aggregation

    def __post_init__(self) -> None:
        function("posterior", self.posterior, why="a `RewardPosterior`")
        if self.aggregation == MARGINAL:
            raise ValueError(f"{MARGINAL} is a factor, in nats: use `MarginalLikelihood`")
        if isinstance(self.aggregation, str):
            one_of("aggregation", self.aggregation, REWARD_AGGREGATIONS)
        else:
            why = f"or one of {', '.join(REWARD_AGGREGATIONS)}"
            function("aggregation", self.aggregation, why=why)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Reward of each of M texts."""
        aggregate = self.aggregation
        if isinstance(aggregate, str):
            aggregate = REWARD_AGGREGATIONS[aggregate]
        return aggregate(self.posterior(texts)).tolist()


def uncertain_model(
    prior: LanguageModel, posterior: RewardPosterior, aggregation: str, beta: float
) -> AlignmentModel:
    """The model whose likelihood is an uncertain reward, by a name in `AGGREGATIONS`."""
    one_of("aggregation", aggregation, AGGREGATIONS)
    if aggregation in REWARD_AGGREGATIONS:
        reward = TextReward(UncertainReward(posterior, aggregation), prior, whole=True)
        return AlignmentModel(prior, reward, beta)
    factors = {MARGINAL: MarginalLikelihood(posterior, prior, beta)}
    return AlignmentModel(prior, {}, beta, factors)

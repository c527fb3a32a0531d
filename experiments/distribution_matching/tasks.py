"""Two constraints on a language model, each as a target p* and as a reward; three methods.

Pointwise: every response has a certain word, p* = p0 b / Z with b of 1 or 0. With a KL penalty, the
posterior of the reward b tends to p* as beta goes to 0.
Distributional: a share of the responses is positive, p* = p0 exp(lambda phi) / Z with lambda by
`match_moments`. With a KL penalty, the posterior of the reward phi is p* at beta = 1/lambda, and
another distribution at any other beta.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pyro.infer import ELBO

from inference import FDivergence, LeaveOneOut_ELBO
from inference.objectives.leave_one_out import RewardOnly
from inference.targets.moments import MomentMatch
from model import AlignmentModel, Constraint, LanguageModel, Pattern, Reward, TextReward
from model.rewards.vader import vader_sentiment

GDC, PURE, PENALISED = "GDC, no RL", "RL, reward alone", "RL with the KL penalty"
METHODS: dict[str, Callable[[int], ELBO]] = {
    GDC: partial(FDivergence, "forward-kl"),
    PURE: RewardOnly,
    PENALISED: LeaveOneOut_ELBO,
}


@dataclass(frozen=True, eq=False)
class Task:
    """A constraint on the mean of a feature.

    Attributes:
        name: title.
        feature: phi, 1 or 0.
        goal: target of E[phi].
        target: model whose posterior is p*.
        rewarded: model for RL, with the reward phi. The posterior is p*, or close to p*.
    """

    name: str
    feature: Reward
    goal: float
    target: AlignmentModel
    rewarded: AlignmentModel


def pointwise(prior: LanguageModel, word: str, beta: float) -> Task:
    """Task: every response has the word."""
    has_word = TextReward(Pattern.of_words([word]), prior, whole=False)
    target = AlignmentModel(prior, {}, 1.0, {"has the word": Constraint(has_word, at_least=1.0)})
    rewarded = AlignmentModel(prior, has_word, beta)
    return Task(f'Every response says "{word}"', has_word, 1.0, target, rewarded)


def distributional(prior: LanguageModel, moments: MomentMatch) -> Task:
    """Task: a share of the responses is positive."""
    share, multiplier = moments.targets["positive"], moments.multipliers["positive"]
    if not (moments.attainable and multiplier > 0):
        base = moments.base_moments["positive"].value
        raise SystemExit(f"--share {share:g}: expected above {base:.3f}, the prior's, and below 1")
    feature, target = positive(prior), AlignmentModel(prior, {}, 1.0, {"moments": moments.factor})
    rewarded = AlignmentModel(prior, feature, 1 / multiplier)
    return Task(f"{share:.0%} of the responses are positive", feature, share, target, rewarded)


def positive(prior: LanguageModel) -> TextReward:
    """Feature: 1 for a text of positive sentiment by VADER, else 0."""

    def is_positive(texts: Sequence[str]) -> list[float]:
        return [float(score > 0) for score in vader_sentiment(texts)]

    return TextReward(is_positive, prior, upper_bound=1.0)

"""Hard constraints: factors b(x) of 1 or 0, whose posterior is the prior given b(x) = 1.

    log f(x) = 0 where r(x) is at least (or at most) a threshold, else -inf
    p*(x) = p0(x) b(x) / Z,   Z = P(b(x) = 1)

A guide that can draw a forbidden response has KL(q || p*) = infinity. Algorithms differ:

    refuse              objectives of KL(q || p*) or of a lower bound on log Z
    support             rejection, importance, Metropolis-Hastings, SMC, enumeration, KL(p* || q)
    approach in stages  annealed SMC, and SVI by `inference.anneal`, from a soft constraint
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from model.common.checks import boolean, finite, function, instance
from model.likelihood import Reward, applies_to, check_values, for_each_prompt
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.rewards.pattern import Pattern
from model.rewards.text import TextReward


class Constraint:
    """log f(x) = 0 where a reward is within two thresholds, -inf elsewhere.

        positive = Constraint(TextReward(vader_sentiment, prior), at_least=0.5)
        model = AlignmentModel(prior, {}, 1.0, factors={"positive": positive})

    Args:
        reward: the reward under the threshold, such as a pattern or the log-probability of a label.
        at_least: lowest allowed value.
        at_most: highest allowed value.
        name: name in error messages.
    """

    unit: ClassVar = "nat"
    upper_bound = 0.0

    def __init__(
        self,
        reward: Reward,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        name: str = "constraint",
    ) -> None:
        if at_least is None and at_most is None:
            raise ValueError("got no threshold, expected `at_least`, `at_most` or both")
        self.at_least = _threshold("at_least", at_least, -torch.inf)
        self.at_most = _threshold("at_most", at_most, torch.inf)
        if self.at_least > self.at_most:
            raise ValueError(f"at_least is {at_least} and at_most {at_most}, expected less")
        self.name = instance("name", name, str)
        why = "of prompts and responses"
        self.reward = function(f"the reward of constraint {name!r}", reward, why=why)

    def components(self) -> list[Reward]:
        """The reward under the threshold."""
        return [self.reward]

    def applies(self, prompts: Prompts) -> Tensor:
        """True for the prompts to which the reward applies, `[N]`."""
        return applies_to(f"the reward of constraint {self.name!r}", self.reward, prompts)

    def holds(self, prompts: Prompts, response: Tensor) -> Tensor:
        """True for the responses `[..., N, T]` that meet the constraint, `[..., N]`.

        True for all responses to a prompt to which the reward does not apply.
        """
        response = for_each_prompt(prompts, response)
        value = self.reward(prompts, response)
        label, applies = f"the reward of constraint {self.name!r}", self.applies(prompts)
        reward = check_values(label, value, response.shape[:-1], applies)
        low, high = (_rounded_as(value, limit) for limit in (self.at_least, self.at_most))
        return (reward >= low.to(reward)) & (reward <= high.to(reward)) | ~applies

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """0 or -inf, `[..., N]`, float64, for responses `[..., N, T]`.

        NaN for a prompt to which the reward does not apply.
        """
        forbidden = ~self.holds(prompts, response)
        log_value = torch.zeros_like(forbidden, dtype=torch.float64)
        log_value = log_value.masked_fill(forbidden, -torch.inf)
        return log_value.masked_fill(~self.applies(prompts), torch.nan)


def _threshold(name: str, value: float | None, unlimited: float) -> float:
    """A finite threshold, or the infinity that represents none."""
    if value is None or (isinstance(value, float) and value == unlimited):
        return unlimited
    return finite(name, value)


def _rounded_as(value: Tensor, limit: float) -> Tensor:
    """A threshold in the type of `value`, so that a reward of 0.7 in float32 is at least 0.7."""
    exact = torch.tensor(limit, dtype=torch.float64)
    return exact.to(value.dtype) if value.is_floating_point() else exact


def contains(
    words: str | Iterable[str], language_model: LanguageModel, *, whole: bool = False
) -> Constraint:
    """Constraint: the response, or with `whole` prompt and response, contains one of some words.

        model = AlignmentModel(prior, {}, 1.0, factors={"topic": contains("music", prior)})

    Each is a whole word or phrase, in upper or lower case; a string is one of them.
    """
    return _pattern_constraint(Pattern.of_words(words), language_model, whole)


def matches(pattern: str, language_model: LanguageModel, *, whole: bool = False) -> Constraint:
    """Constraint: a regular expression, case-sensitive, matches in the response; see `contains`."""
    return _pattern_constraint(Pattern(pattern, ignore_case=False), language_model, whole)


def _pattern_constraint(pattern: Pattern, language_model: LanguageModel, whole: bool) -> Constraint:
    reward = TextReward(pattern, language_model, whole=boolean("whole", whole))
    return Constraint(reward, at_least=1.0, name=pattern.__name__)

"""World of a learned reward: a gold reward, and the posterior of a reward given few preferences.

The gold reward is the log-odds of a preference: four times the sentiment of a review, and -4 for a
response that is no review of the grammar. Preferences compare draws of the prior, which are hardly
ever such a response. So a learned reward extrapolates there, and is over-optimised.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from experiments.explore.world import DECIMALS, PROMPT, TEMPTING, World, grammatical, rounded
from inference import Enumeration, random_state
from inference.estimate import expectation
from inference.reward_posterior import REWARD_INFERENCE
from model import AGGREGATIONS, BradleyTerry, RewardPosterior, vader_sentiment
from model.preferences import Preference, uncertain_model
from model.preferences.bradley_terry import simulate
from model.preferences.comparisons import FIRST, Comparisons
from model.preferences.features import StandardisedFeatures
from model.preferences.heads import LinearHead
from model.prior.grammar import grammar_prior

SCALE = 4.0
"""Log-odds of a preference for one unit of sentiment, and minus the reward of no review."""
SIZES = (10, 30, 100, 1000)
"""Numbers of preferences."""
NUM_DRAWS = 24
BETA = 0.8
"""Beta at which the posteriors of learned rewards are checked, reward per nat."""
ADJECTIVES = ("good", "bad", "dull")
FEATURES = (*ADJECTIVES, *(f"not {word}" for word in ADJECTIVES), "very", "other")
"""Features: adjectives with and without "not" before them, "very", and all other words."""


def gold(texts: Sequence[str]) -> list[float]:
    """Gold reward of each text, in log-odds."""
    reviews = {f"{PROMPT} {response}" for response in grammatical(3)}
    scores = zip(texts, vader_sentiment(texts), strict=True)
    return [SCALE * score if text in reviews else -SCALE for text, score in scores]


def counts(texts: Sequence[str]) -> Tensor:
    """Features of M texts `[M, 8]`: how often each stands in the response."""
    return torch.tensor([_counts(text) for text in texts], dtype=torch.float64)


def _counts(text: str) -> list[int]:
    count = dict.fromkeys(FEATURES, 0)
    words = text.removeprefix(PROMPT).split()
    for place, word in enumerate(words):
        if word in ADJECTIVES:
            count[f"not {word}" if "not" in words[:place] else word] += 1
        elif word == "very":
            count["very"] += 1
        elif word != "not":
            count["other"] += 1
    return list(count.values())


class LearnedWorld(World):
    """The reviews with the gold reward, and rewards learned from preferences."""

    @cached_property
    def posteriors(self) -> dict[int, RewardPosterior]:
        """Posterior of the reward for each number of preferences."""
        return {size: self.learn(size) for size in SIZES}

    def preferences(self, size: int) -> list[Preference]:
        """Pairs of different draws of the prior, each with a label by the gold reward."""
        reward, prob = self.reward("gold")[:, 0], self.truth.log_prior[:, 0].exp()
        with random_state.isolated(size):
            first, second = torch.multinomial(prob, 4 * size, replacement=True).view(2, -1)
            differ = (first != second).nonzero()[:size, 0]
            first, second = first[differ], second[differ]
            is_first = simulate(reward[first], reward[second]) == FIRST
        chosen = torch.where(is_first, first, second).tolist()
        rejected = torch.where(is_first, second, first).tolist()
        pairs = zip(chosen, rejected, strict=True)
        return [Preference(PROMPT, f" {self.texts[i]}", f" {self.texts[j]}") for i, j in pairs]

    def learn(self, size: int) -> RewardPosterior:
        """Laplace's posterior of the reward given so many preferences."""
        preferences = self.preferences(size)
        texts = [text for preference in preferences for text in preference.texts]
        features = StandardisedFeatures.fit(counts, texts)
        model = BradleyTerry(LinearHead(features.num_features), prior_scale=4.0)
        comparisons = Comparisons.of(preferences, features)
        samples = REWARD_INFERENCE["laplace"](model, comparisons, num_samples=NUM_DRAWS, seed=size)
        return RewardPosterior(model.head, features, samples)

    def data(self) -> dict[str, Any]:
        """The world as JSON, with the draws of each learned reward as weights of the features."""
        texts = [f"{PROMPT} {text}".strip() for text in self.texts]
        rows = counts(texts).int().tolist()
        learned = []
        for size, posterior in self.posteriors.items():
            standardised = posterior.features
            weights = posterior.samples.double() @ standardised.projection.T  # [S, F]
            offsets = -(weights @ standardised.center)
            table = torch.cat([weights, offsets[:, None]], 1)
            rows_of_draws, exact = list(map(rounded, table)), self.exact_aggregations(posterior)
            learned.append({"preferences": size, "weights": rows_of_draws, "exact": exact})
        features = ["".join(map(str, row)) for row in rows]
        return super().data() | {"features": features, "names": FEATURES, "learned": learned}

    def exact_aggregations(self, posterior: RewardPosterior) -> list[dict[str, Any]]:
        """log Z and the mean gold reward of the posterior of each aggregation."""
        records = []
        reward = self.reward("gold")
        for name in AGGREGATIONS:
            truth = Enumeration(uncertain_model(self.prior, posterior, name, BETA), self.prompts)
            mean = expectation(truth.log_posterior.exp(), reward)
            values = {
                "logZ": round(truth.log_z.item(), DECIMALS),
                "meanGold": round(mean.item(), DECIMALS),
            }
            records.append({"aggregation": name, "beta": BETA, **values})
        return records


@cache
def learned_reviews() -> LearnedWorld:
    """Reviews of at most three words with the gold reward and learned rewards."""
    shown = [*grammatical(3), *TEMPTING]
    return LearnedWorld(grammar_prior(max_new_tokens=3), {"gold": gold}, shown, (0.3, BETA, 5.0))

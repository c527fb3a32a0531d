"""Worlds of the pages: log p0 and rewards of all responses to one prompt, as plain data.

The responses continue "the film was" by at most three words. `Enumeration` lists them, and has the
exact numbers that a page computes again in the browser.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from inference import Enumeration
from inference.estimate import expectation
from model import AlignmentModel, LanguageModel, Pattern, Prompts, TextReward, vader_sentiment
from model.prior.grammar import ADVERBS, PROMPTS, WORDS, grammar_prior

PROMPT = PROMPTS[0]
DECIMALS = 8
"""Number of decimals on a page; fewer than the digits that differ from run to run."""
TEMPTING = ("very very good", "good very good", "very good good", "good good good")
"""Responses with high sentiment that the prior hardly has."""
MODES = {"very good": 0.9, "not bad": 1.0, "dull": 0.9}
"""Rewards of the modes, the third mode last."""

TextFunction = Callable[[Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class World:
    """Prior and rewards on all S responses to one prompt.

    Attributes:
        prior: p0, a language model with few responses.
        functions: rewards by name, as functions of texts.
        shown: responses that a page names; the others share one bar.
        betas: values of beta at which a page is checked, reward per nat.
    """

    prior: LanguageModel
    functions: Mapping[str, TextFunction]
    shown: Sequence[str]
    betas: Sequence[float]

    @cached_property
    def prompts(self) -> Prompts:
        """The one prompt."""
        return self.prior.encode([PROMPT])

    @cached_property
    def truth(self) -> Enumeration:
        """All responses with log p0; the likelihood is 1."""
        return Enumeration(AlignmentModel(self.prior, {}, 1.0), self.prompts)

    @cached_property
    def texts(self) -> list[str]:
        """Text of each response, without the prompt."""
        texts = self.prior.decode(self.truth.support, self.prompts)
        return [row[0].removeprefix(PROMPT).strip() for row in texts]

    def model(self, reward: str, beta: float) -> AlignmentModel:
        """The program of the posterior for a reward by name."""
        return AlignmentModel(self.prior, TextReward(self.functions[reward], self.prior), beta)

    def reward(self, name: str) -> Tensor:
        """Reward of each response, `[S, 1]`."""
        return self.model(name, 1.0).reward(self.prompts, self.truth.support)

    def data(self) -> dict[str, Any]:
        """The world as JSON: a digit for each token of a response, numbers to eight decimals."""
        ids = self.truth.support[:, 0]
        return {
            "prompt": PROMPT,
            "words": list(WORDS),
            "responses": ["".join(map(str, row)) for row in ids.tolist()],
            "shown": [self.texts.index(text) for text in self.shown],
            "logPrior": rounded(self.truth.log_prior[:, 0]),
            "rewards": {name: rounded(self.reward(name)[:, 0]) for name in self.functions},
            "exact": self.exact_numbers(),
        }

    def exact_numbers(self) -> list[dict[str, Any]]:
        """log Z, E[r] and KL(p* || p0) of each posterior by `Enumeration`."""
        records = []
        for name in self.functions:
            for beta in self.betas:
                truth = Enumeration(self.model(name, beta), self.prompts)
                prob = truth.log_posterior.exp()
                numbers = {
                    "logZ": truth.log_z,
                    "meanReward": beta * expectation(prob, truth.log_likelihood),
                    "klPosteriorPrior": expectation(prob, truth.log_posterior - truth.log_prior),
                }
                values = {key: round(number.item(), DECIMALS) for key, number in numbers.items()}
                records.append({"reward": name, "beta": beta, **values})
        return records


def rounded(values: Tensor) -> list[float]:
    """Numbers to eight decimals, whole numbers without decimals."""
    numbers = [round(value, DECIMALS) for value in values.tolist()]
    return [int(number) if number == int(number) else number for number in numbers]


def grammatical(max_words: int) -> list[str]:
    """Responses of the grammar with at most so many words, without an adverb first."""
    adjectives = ("good", "bad", "dull")
    texts = [f"{adverb} {adjective}".strip() for adverb in ADVERBS for adjective in adjectives]
    return [text for text in texts if len(text.split()) <= max_words]


@cache
def reviews() -> World:
    """Reviews of at most three words, 820 responses, with their sentiment or the word "not"."""
    functions: dict[str, TextFunction] = {
        "sentiment": vader_sentiment,
        "says-not": Pattern.of_words("not"),
    }
    shown = [*grammatical(3), *TEMPTING]
    return World(grammar_prior(max_new_tokens=3), functions, shown, (0.03, 0.1, 0.3, 1.0, 3.0))


@cache
def modes() -> World:
    """Reviews of at most two words, 91 responses, of which two or three are the modes."""

    def rewarding(names: Sequence[str]) -> TextFunction:
        rewards = {f"{PROMPT} {name}": MODES[name] for name in names}
        return lambda texts: [rewards.get(text, 0.0) for text in texts]

    functions = {"two-modes": rewarding([*MODES][:2]), "three-modes": rewarding([*MODES])}
    return World(grammar_prior(max_new_tokens=2), functions, grammatical(2), (0.1, 0.16, 0.3))


def largest_error(data: Mapping[str, Any]) -> float:
    """Largest difference of log Z, E[r] and KL by the numbers on a page from `Enumeration`'s."""
    log_prior = torch.tensor(data["logPrior"], dtype=torch.float64)
    errors = [0.0]
    for record in data["exact"]:
        reward = torch.tensor(data["rewards"][record["reward"]], dtype=torch.float64)
        log_joint = log_prior + reward / record["beta"]
        log_z = log_joint.logsumexp(0)
        prob = (log_joint - log_z).exp()
        mean = (prob * reward).sum()
        kl = mean / record["beta"] - log_z
        numbers = {"logZ": log_z, "meanReward": mean, "klPosteriorPrior": kl}
        errors += [abs(value.item() - record[name]) for name, value in numbers.items()]
    return max(errors)

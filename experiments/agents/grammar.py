"""Three speakers who judge differently, as a grammar: sum_a s_a g_a(x), shares s_a."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from model.prior.grammar import grammar_sentences


@dataclass(frozen=True)
class Speaker:
    """A speaker of the grammar: g(x), a distribution of sentences.

    Attributes:
        share: share of all sentences that this speaker says.
        adverbs: probability of each adverb, "" for none; other adverbs have probability 0.
        adjectives: probability of each adjective, by subject.
    """

    share: float
    adverbs: Mapping[str, float]
    adjectives: Mapping[str, Mapping[str, float]]

    def sentences(self) -> dict[str, float]:
        """Every sentence of positive probability, with its probability."""
        return grammar_sentences(self.adverbs, self.adjectives)


SPEAKERS = {
    "enthusiast": Speaker(
        share=0.3,
        adverbs={"very": 0.6, "": 0.3, "not": 0.1},
        adjectives={
            "film": {"good": 0.8, "bad": 0.1, "dull": 0.1},
            "plot": {"good": 0.7, "bad": 0.1, "dull": 0.2},
        },
    ),
    "critic": Speaker(
        share=0.5,
        adverbs={"": 0.4, "not": 0.3, "not very": 0.2, "very": 0.1},
        adjectives={
            "film": {"good": 0.3, "bad": 0.5, "dull": 0.2},
            "plot": {"good": 0.3, "bad": 0.4, "dull": 0.3},
        },
    ),
    "bore": Speaker(
        share=0.2,
        adverbs={"": 0.9, "not very": 0.1},
        adjectives={
            "film": {"good": 0.2, "bad": 0.1, "dull": 0.7},
            "plot": {"good": 0.1, "bad": 0.1, "dull": 0.8},
        },
    ),
}
"""Three speakers who judge differently. Most sentences have several possible speakers."""


def spoken_sentences() -> dict[str, float]:
    """Every sentence of the mixture of speakers with its probability: sum_a s_a g_a(x)."""
    probabilities: dict[str, float] = defaultdict(float)
    for speaker in SPEAKERS.values():
        for text, probability in speaker.sentences().items():
            probabilities[text] += speaker.share * probability
    return dict(probabilities)

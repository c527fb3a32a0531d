"""Three speakers who judge differently, as a grammar: sum_a s_a g_a(x), shares s_a."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.prior.grammar import grammar_sentences


@dataclass(frozen=True)
class Speaker:
    """A speaker of the grammar: g(x), a distribution of sentences.

    Attributes:
        share: share of all sentences that this speaker says.
        adverbs: probability of each adverb, "" for none; other adverbs have probability 0.
        film, plot: probabilities of good, bad and dull, of a film and of a plot.
    """

    share: float
    adverbs: Mapping[str, float]
    film: Sequence[float]
    plot: Sequence[float]

    def sentences(self) -> dict[str, float]:
        """Every sentence of positive probability, with its probability."""
        subjects = {"film": self.film, "plot": self.plot}
        adjectives = {
            subject: dict(zip(("good", "bad", "dull"), probs, strict=True))
            for subject, probs in subjects.items()
        }
        return grammar_sentences(self.adverbs, adjectives)


SPEAKERS = {
    "enthusiast": Speaker(
        0.3, {"very": 0.6, "": 0.3, "not": 0.1}, film=(0.8, 0.1, 0.1), plot=(0.7, 0.1, 0.2)
    ),
    "critic": Speaker(
        0.5,
        {"": 0.4, "not": 0.3, "not very": 0.2, "very": 0.1},
        film=(0.3, 0.5, 0.2),
        plot=(0.3, 0.4, 0.3),
    ),
    "bore": Speaker(0.2, {"": 0.9, "not very": 0.1}, film=(0.2, 0.1, 0.7), plot=(0.1, 0.1, 0.8)),
}
"""Three speakers who judge differently. Most sentences have several possible speakers."""


def spoken_sentences() -> dict[str, float]:
    """Every sentence of the mixture of speakers with its probability: sum_a s_a g_a(x)."""
    probabilities: dict[str, float] = defaultdict(float)
    for speaker in SPEAKERS.values():
        for text, probability in speaker.sentences().items():
            probabilities[text] += speaker.share * probability
    return dict(probabilities)

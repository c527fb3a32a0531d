"""VADER: sentiment of an English text by word list and rules (Hutto and Gilbert 2014)."""

from collections.abc import Sequence
from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from model.common.texts import listed_texts

_analyzer = cache(SentimentIntensityAnalyzer)


def vader_sentiment(texts: Sequence[str]) -> list[float]:
    """Compound score of each text, from -1, most negative, to 1, most positive."""
    listed = listed_texts("vader_sentiment", texts, at_least=0)
    return [_analyzer().polarity_scores(text)["compound"] for text in listed]


vader_sentiment.upper_bound = 1.0  # type: ignore[attr-defined]

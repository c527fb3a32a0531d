"""Rewards: what evidence is made of, one kind a file. Evidence by themselves, or functions of texts for `TextEvidence`."""

from model.rewards.classifier import SequenceClassifier
from model.rewards.expert import Expert
from model.rewards.length import Length
from model.rewards.likelihood import TextLikelihood
from model.rewards.pattern import Pattern
from model.rewards.text import TextEvidence
from model.rewards.tokens import TokenEvidence
from model.rewards.vader import vader_sentiment

__all__ = [
    "Expert",
    "Length",
    "Pattern",
    "SequenceClassifier",
    "TextEvidence",
    "TextLikelihood",
    "TokenEvidence",
    "vader_sentiment",
]

"""Rewards, one kind a file: callables of prompts and responses, or functions of texts."""

from model.rewards.classifier import SequenceClassifier
from model.rewards.expert import Expert
from model.rewards.length import Length
from model.rewards.pattern import Pattern
from model.rewards.text import TextReward
from model.rewards.text_likelihood import TextLikelihood
from model.rewards.tokens import TokenReward
from model.rewards.vader import vader_sentiment
from model.rewards.weighted_sum import WeightedSum

__all__ = [
    "Expert",
    "Length",
    "Pattern",
    "SequenceClassifier",
    "TextLikelihood",
    "TextReward",
    "TokenReward",
    "WeightedSum",
    "vader_sentiment",
]

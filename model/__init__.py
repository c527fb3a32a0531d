"""What we want: the prior, the evidence, and the posterior they define."""

from model.alignment import AlignmentModel
from model.evidence import (
    BearsZeroEvidence,
    Evidence,
    EvidenceError,
    TextEvidence,
    TokenEvidence,
    ZeroEvidenceError,
)
from model.grammar import grammar_prior
from model.language_model import LanguageModel
from model.prompts import Prompts
from model.response_distribution import ResponseDistribution
from model.response_space import NotEnumerableError, ResponseSpace
from model.vader import vader_sentiment

__all__ = [
    "AlignmentModel",
    "BearsZeroEvidence",
    "Evidence",
    "EvidenceError",
    "LanguageModel",
    "NotEnumerableError",
    "Prompts",
    "ResponseDistribution",
    "ResponseSpace",
    "TextEvidence",
    "TokenEvidence",
    "ZeroEvidenceError",
    "grammar_prior",
    "vader_sentiment",
]

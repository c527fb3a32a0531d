"""What we want: the prior, the evidence, and the posterior they define."""

from model.alignment import AlignmentModel
from model.evidence import (
    BearsZeroEvidence,
    Bounded,
    Evidence,
    EvidenceError,
    ZeroEvidenceError,
)
from model.grammar import grammar_prior
from model.language_model import LanguageModel
from model.prompts import Prompts
from model.response_distribution import ResponseDistribution
from model.response_space import NotEnumerableError, ResponseSpace
from model.rewards import (
    Expert,
    Length,
    Pattern,
    SequenceClassifier,
    TextEvidence,
    TextLikelihood,
    TokenEvidence,
    vader_sentiment,
)

__all__ = [
    "AlignmentModel",
    "BearsZeroEvidence",
    "Bounded",
    "Evidence",
    "EvidenceError",
    "Expert",
    "LanguageModel",
    "Length",
    "NotEnumerableError",
    "Pattern",
    "Prompts",
    "ResponseDistribution",
    "ResponseSpace",
    "SequenceClassifier",
    "TextEvidence",
    "TextLikelihood",
    "TokenEvidence",
    "ZeroEvidenceError",
    "grammar_prior",
    "vader_sentiment",
]

"""What we want: the prior, the evidence, and the posterior they define."""

from model.alignment import AlignmentModel
from model.composition import WeightedSum
from model.constraints import Constraint, contains, matches
from model.evidence import (
    BearsZeroEvidence,
    Bounded,
    Evidence,
    EvidenceError,
    ZeroEvidenceError,
)
from model.grammar import grammar_prior
from model.language_model import LanguageModel
from model.optimality import OptimalityModel
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
from model.tilt import Tilt

__all__ = [
    "AlignmentModel",
    "BearsZeroEvidence",
    "Bounded",
    "Constraint",
    "Evidence",
    "EvidenceError",
    "Expert",
    "LanguageModel",
    "Length",
    "NotEnumerableError",
    "OptimalityModel",
    "Pattern",
    "Prompts",
    "ResponseDistribution",
    "ResponseSpace",
    "SequenceClassifier",
    "TextEvidence",
    "TextLikelihood",
    "Tilt",
    "TokenEvidence",
    "WeightedSum",
    "ZeroEvidenceError",
    "contains",
    "grammar_prior",
    "matches",
    "vader_sentiment",
]

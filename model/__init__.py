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
from model.preferences import (
    AGGREGATIONS,
    BradleyTerry,
    Comparisons,
    Preference,
    PreferenceError,
    RewardPosterior,
    UncertainReward,
    read_preferences,
)
from model.prompts import Prompts
from model.response_distribution import ResponseDistribution
from model.response_space import NotEnumerableError, ResponseSpace
from model.vader import vader_sentiment

__all__ = [
    "AGGREGATIONS",
    "AlignmentModel",
    "BearsZeroEvidence",
    "BradleyTerry",
    "Comparisons",
    "Evidence",
    "EvidenceError",
    "LanguageModel",
    "NotEnumerableError",
    "Preference",
    "PreferenceError",
    "Prompts",
    "ResponseDistribution",
    "ResponseSpace",
    "RewardPosterior",
    "TextEvidence",
    "TokenEvidence",
    "UncertainReward",
    "ZeroEvidenceError",
    "grammar_prior",
    "read_preferences",
    "vader_sentiment",
]

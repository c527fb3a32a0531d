"""What we want: the prior, the evidence, and the posterior they define."""

from model.alignment import AlignmentModel
from model.checkpoint_source import PretrainedError
from model.composition import WeightedSum
from model.constraints import Constraint, contains, matches
from model.digests import DamagedFileError
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
from model.positions import DrivenNetworkError
from model.preferences import (
    AGGREGATIONS,
    BradleyTerry,
    Comparisons,
    OtherRewardError,
    Preference,
    PreferenceError,
    RewardPosterior,
    UncertainReward,
    read_preferences,
)
from model.prompts import Prompts
from model.response_distribution import ResponseDistribution
from model.response_index import ResponseIndex
from model.response_space import NotEnumerableError, OtherLanguageModelError, ResponseSpace
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
    "AGGREGATIONS",
    "AlignmentModel",
    "BearsZeroEvidence",
    "Bounded",
    "BradleyTerry",
    "Comparisons",
    "Constraint",
    "DamagedFileError",
    "DrivenNetworkError",
    "Evidence",
    "EvidenceError",
    "Expert",
    "LanguageModel",
    "Length",
    "NotEnumerableError",
    "OptimalityModel",
    "OtherLanguageModelError",
    "OtherRewardError",
    "Pattern",
    "Preference",
    "PreferenceError",
    "PretrainedError",
    "Prompts",
    "ResponseDistribution",
    "ResponseIndex",
    "ResponseSpace",
    "RewardPosterior",
    "SequenceClassifier",
    "TextEvidence",
    "TextLikelihood",
    "Tilt",
    "TokenEvidence",
    "UncertainReward",
    "WeightedSum",
    "ZeroEvidenceError",
    "contains",
    "grammar_prior",
    "matches",
    "read_preferences",
    "vader_sentiment",
]

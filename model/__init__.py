"""The prior, the likelihood, and the posterior that they define."""

from model.alignment import AlignmentModel
from model.common.digests import DamagedFileError
from model.factors import Constraint, MarginalLikelihood, Tilt, contains, matches
from model.likelihood import (
    Factor,
    HardConstraintSupport,
    ImpossibleResponseError,
    LikelihoodError,
    OtherBetaError,
    Reward,
)
from model.networks.source import PretrainedError
from model.optimality import OptimalityModel
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
from model.prior.decoder_check import CachedReadingError
from model.prior.grammar import grammar_prior
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.prior.response_distribution import ResponseDistribution
from model.prior.response_index import ResponseIndex
from model.prior.response_space import NotEnumerableError, OtherLanguageModelError, ResponseSpace
from model.rewards import (
    Expert,
    Length,
    Pattern,
    SequenceClassifier,
    TextLikelihood,
    TextReward,
    TokenReward,
    WeightedSum,
    vader_sentiment,
)

__all__ = [
    "AGGREGATIONS",
    "AlignmentModel",
    "BradleyTerry",
    "CachedReadingError",
    "Comparisons",
    "Constraint",
    "DamagedFileError",
    "Expert",
    "Factor",
    "HardConstraintSupport",
    "ImpossibleResponseError",
    "LanguageModel",
    "Length",
    "LikelihoodError",
    "MarginalLikelihood",
    "NotEnumerableError",
    "OptimalityModel",
    "OtherBetaError",
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
    "Reward",
    "RewardPosterior",
    "SequenceClassifier",
    "TextLikelihood",
    "TextReward",
    "Tilt",
    "TokenReward",
    "UncertainReward",
    "WeightedSum",
    "contains",
    "grammar_prior",
    "matches",
    "read_preferences",
    "vader_sentiment",
]

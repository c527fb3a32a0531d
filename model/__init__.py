# ruff: noqa: F401 - re-exports
"""The prior, the likelihood, and the posterior that they define."""

from model.alignment import AlignmentModel
from model.common.files import DamagedFileError
from model.data.prompt_data import PromptData, read_prompts
from model.data.record import DataError
from model.factors.answer_likelihood import AnswerLikelihood
from model.factors.constraints import Constraint, contains, matches
from model.factors.marginal_likelihood import MarginalLikelihood
from model.factors.tilt import Tilt
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
    TextJudge,
    UncertainReward,
    read_preferences,
)
from model.prior.decoder import Decoder
from model.prior.decoder_check import CachedReadingError
from model.prior.grammar import grammar_prior
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.prior.response_distribution import ResponseDistribution
from model.prior.response_index import ResponseIndex
from model.prior.response_space import NotEnumerableError, OtherLanguageModelError, ResponseSpace
from model.rewards.accuracy import Accuracy
from model.rewards.classifier import SequenceClassifier
from model.rewards.expert import Expert
from model.rewards.length import Length, LengthLimit
from model.rewards.pattern import Format, Pattern
from model.rewards.repetition import Repetition
from model.rewards.text import TextReward
from model.rewards.text_likelihood import TextLikelihood
from model.rewards.tokens import TokenReward
from model.rewards.vader import vader_sentiment
from model.rewards.weighted_sum import WeightedSum

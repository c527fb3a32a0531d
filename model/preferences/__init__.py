"""Preferences: the reward as a latent variable, and what is known of it as evidence."""

from model.preferences.aggregation import (
    AGGREGATIONS,
    Aggregation,
    UncertainReward,
    lower_bound,
    marginal_likelihood,
    mean,
    minimum,
)
from model.preferences.bradley_terry import FIRST, SECOND, TIE, BradleyTerry, Comparisons, log_outcome, simulate
from model.preferences.data import Preference, PreferenceError, read_preferences, split_preferences, write_preferences
from model.preferences.features import EncoderFeatures, Features, NetworkFeatures, PriorFeatures, Standardised
from model.preferences.heads import HEADS, Head, LinearHead, MLPHead
from model.preferences.reward import OtherRewardError, RewardPosterior, named_encoder, saved_features

__all__ = [
    "AGGREGATIONS",
    "FIRST",
    "HEADS",
    "SECOND",
    "TIE",
    "Aggregation",
    "BradleyTerry",
    "Comparisons",
    "EncoderFeatures",
    "Features",
    "Head",
    "LinearHead",
    "MLPHead",
    "NetworkFeatures",
    "OtherRewardError",
    "Preference",
    "PreferenceError",
    "PriorFeatures",
    "RewardPosterior",
    "Standardised",
    "UncertainReward",
    "log_outcome",
    "lower_bound",
    "marginal_likelihood",
    "mean",
    "minimum",
    "named_encoder",
    "read_preferences",
    "saved_features",
    "simulate",
    "split_preferences",
    "write_preferences",
]

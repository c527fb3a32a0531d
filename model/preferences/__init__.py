# ruff: noqa: F401 - re-exports
"""Preferences: the reward as a latent variable, inferred from comparisons."""

from model.preferences.aggregation import AGGREGATIONS, UncertainReward, uncertain_model
from model.preferences.bradley_terry import BradleyTerry, log_outcome, simulate
from model.preferences.comparisons import (
    FIRST,
    SECOND,
    TIE,
    Comparisons,
    Observations,
    Rankings,
)
from model.preferences.data import (
    Judged,
    Preference,
    PreferenceError,
    encode_distinct_prompts,
    encode_prompts,
    read_preferences,
    split_preferences,
    write_preferences,
)
from model.preferences.features import (
    EncoderFeatures,
    Features,
    NetworkFeatures,
    PriorFeatures,
    StandardisedFeatures,
)
from model.preferences.heads import HEADS, Head, LinearHead, MLPHead
from model.preferences.plackett_luce import log_ranking
from model.preferences.rankings import Ranking, read_judged
from model.preferences.reward_posterior import OtherRewardError, RewardPosterior, saved_features
from model.preferences.text_judge import TextJudge

"""Impossible arguments of networks, features, heads and rewards are refused by name."""

from functools import partial

import pytest
import torch

from model import (
    AlignmentModel,
    BradleyTerry,
    Comparisons,
    Constraint,
    Expert,
    LanguageModel,
    Length,
    Pattern,
    Preference,
    Prompts,
    RewardPosterior,
    SequenceClassifier,
    TextLikelihood,
    TextReward,
    Tilt,
    TokenReward,
    UncertainReward,
    WeightedSum,
    contains,
    grammar_prior,
    matches,
    read_preferences,
)
from model.preferences import EncoderFeatures, LinearHead, PriorFeatures, StandardisedFeatures
from model.preferences.data import split_preferences
from model.preferences.heads import MLPHead
from tests.model.rewards.test_networks import bert
from tests.model.tiny import llama, tiny, tiny_tokenizer
from tests.refusals import TENSOR, Call, assert_refuses

HEAD, TEXTS = LinearHead(2), ["a", "b b"]
PRIOR, TOKENIZER = {"language_model": tiny()}, tiny_tokenizer(pad_token="<pad>")
CENTER, EYE = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
STANDARDISED = StandardisedFeatures(lambda texts: torch.ones(len(texts), 2), CENTER, EYE)
SAMPLES = torch.ones(3, 2, dtype=torch.float64)
NO_REWARD = [3, int]
PROMPTS = tiny().encode(["a"])
DISTRIBUTION, ENDED = tiny()(PROMPTS), torch.zeros(1, 3, dtype=torch.long)
MODEL = AlignmentModel(tiny(), Length(tiny()), 1.0)


def lengths(texts):
    return torch.tensor([[float(len(text)), 1.0] for text in texts])


CALLS: dict[str, Call] = {
    "SequenceClassifier": (
        SequenceClassifier,
        {"network": bert(), "tokenizer": TOKENIZER, "label": 0},
        {"label": [True, 1.0]},
    ),
    "TextLikelihood": (TextLikelihood, {"network": llama(), "tokenizer": TOKENIZER}, {}),
    "EncoderFeatures": (EncoderFeatures, {"network": bert(), "tokenizer": TOKENIZER}, {}),
    "PriorFeatures": (PriorFeatures, PRIOR, {"language_model": [tiny().network]}),
    "Expert": (Expert, PRIOR | {"prior": tiny()}, {"language_model": [tiny().network]}),
    "Length": (Length, PRIOR, {"target": [1.5, True, -1, 4]}),
    "TokenReward": (
        TokenReward,
        PRIOR | {"function": lambda ids, mask: 0.0},
        {"function": [3, "length"]},
    ),
    "TextReward": (
        TextReward,
        PRIOR | {"function": lambda texts: [0.0]},
        {"name": [3], "function": [0.5, "vader", Pattern]},
    ),
    "encode": (
        partial(tiny().encode, ["a"]),
        {},
        {
            "columns": [{"columns": 3}, {"columns": ["x", "y"]}, {"columns": [object()]}],
            "places": [3, "x", ["x", "y"]],
        },
    ),
    "Prompts.from_ids": (
        Prompts.from_ids,
        {"rows": [[1]], "texts": ["a"]},
        {
            "rows": [3, "x", None, [["a"]], [[1.5]], [[True]], [[-1]], [[]], [[1], [2]]],
            "texts": [3, "x", None, [3]],
        },
    ),
    "sample": (tiny()(tiny().encode(["a"])).sample, {}, {}),
    "log_prob": (DISTRIBUTION.log_prob, {"value": ENDED}, {"value": TENSOR}),
    "log_prob_per_token": (DISTRIBUTION.log_prob_per_token, {"value": ENDED}, {"value": TENSOR}),
    "sample_suffix": (
        DISTRIBUTION.sample_suffix,
        {"value": ENDED, "start": ENDED[:, 0]},
        {"value": TENSOR, "start": TENSOR},
    ),
    "AlignmentModel.reward": (MODEL.reward, {"prompts": PROMPTS, "response": ENDED}, {}),
    "AlignmentModel.applies": (MODEL.applies, {"prompts": PROMPTS}, {}),
    "TextReward.applies": (TextReward(len, tiny()).applies, {"prompts": PROMPTS}, {}),
    "Preference": (
        Preference,
        {"prompt": "a", "chosen": " b", "rejected": " c"},
        {"prompt": [3, None], "chosen": [3, None, " c"], "rejected": [3, None], "tie": [0, "no"]},
    ),
    "split_preferences": (
        split_preferences,
        {"preferences": [Preference("", "a", "b"), Preference("", "a", "c")]},
        {"preferences": [None, 3, ["a"]], "held_out": [0, 1, "0.5", float("nan")]},
    ),
    "AlignmentModel": (
        AlignmentModel,
        {"prior": tiny(), "reward": {"a": Length(tiny())}, "beta": 1.0},
        {
            "reward": [3, int, {"reward": 0.5}],
            "beta": [0, -1.0, {}, [1.0, 2.0], torch.ones(2), {"a": float("nan")}],
            "factors": [[3], {"a": 3}, {"a": Length(tiny())}],
        },
    ),
    "Constraint": (
        Constraint,
        {"reward": Length(tiny()), "at_least": 0, "at_most": 9},
        {"reward": [0.5], "at_least": [torch.zeros(2)], "at_most": [-torch.inf], "name": [None]},
    ),
    "contains": (contains, PRIOR | {"words": "a"}, {"words": [3]}),
    "matches": (matches, PRIOR | {"pattern": "a"}, {}),
    "Pattern": (Pattern, {"pattern": "a"}, {"pattern": [b"a"]}),
    "WeightedSum": (
        WeightedSum,
        {},
        {"parts": [[Length(tiny())], {"parts": Length(tiny())}, {"parts": (1.0, 3)}]},
    ),
    "Tilt": (
        Tilt,
        {"features": {"feature": Length(tiny())}, "multipliers": {"feature": 1.0}},
        {"features": [[], {"feature": 3}], "multipliers": [3]},
    ),
    "Comparisons.of": (
        Comparisons.of,
        {"preferences": [Preference("", "a", "b")], "features": lengths},
        {"preferences": [3], "features": [lambda _: None]},
    ),
    "grammar_prior": (
        grammar_prior,
        {},
        {"words": [None, 3], "steps": [-1, 10**12], "sentences": [["a"], {}, {"sentences": -1.0}]},
    ),
    "decode": (
        tiny().decode,
        {"response": torch.zeros(1, 3).long()},
        {"response": [[[0, 1, 2]]], "prompts": [["a"]]},
    ),
    "StandardisedFeatures": (
        StandardisedFeatures,
        {"features": lengths, "center": CENTER, "projection": EYE},
        {"center": [[0, 0], CENTER / 0], "projection": [torch.eye(3)]},
    ),
    "StandardisedFeatures.fit": (
        StandardisedFeatures.fit,
        {"features": lengths, "texts": TEXTS},
        {
            "texts": ["text", ["a"]],
            "features": [
                lambda _, value=value: value for value in (None, CENTER, SAMPLES, EYE / 0)
            ],
        },
    ),
    "RewardPosterior": (
        RewardPosterior,
        {"head": HEAD, "features": STANDARDISED, "samples": SAMPLES},
        {"head": [lengths], "features": [lengths], "samples": [SAMPLES / 0]},
    ),
    "RewardPosterior.load": (RewardPosterior.load, {"folder": "none", "features": lengths}, {}),
    "UncertainReward": (
        UncertainReward,
        {"posterior": RewardPosterior(HEAD, STANDARDISED, SAMPLES), "aggregation": "mean"},
        {},
    ),
    "BradleyTerry": (BradleyTerry, {"head": HEAD}, {"prior_mean": [[0, 0]]}),
    "LinearHead": (LinearHead, {"num_features": 2}, {}),
    "MLPHead": (MLPHead, {"num_features": 2}, {}),
    "LanguageModel": (
        LanguageModel,
        {"network": tiny().network, "tokenizer": tiny_tokenizer(), "max_new_tokens": 3},
        {"max_new_tokens": [16]},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_impossible_value_is_refused_by_name(name):
    assert_refuses(*CALLS[name])


def test_a_tokenizer_needs_a_padding_token():
    with pytest.raises(ValueError, match="neither a padding token nor"):
        EncoderFeatures(bert(), tiny_tokenizer(eos_token=None))


def test_preferences_are_of_their_type():
    with pytest.raises(TypeError, match="source is a int, expected a Iterable: of mappings, or a"):
        read_preferences(3)
    with pytest.raises(TypeError, match="a preference is a tuple, expected a Preference"):
        Comparisons.of([("a", "b")], lengths)


def test_a_reward_and_a_factor_have_two_names():
    with pytest.raises(ValueError, match="a reward and a factor are both named 'a'"):
        AlignmentModel(tiny(), {"a": Length(tiny())}, 1.0, {"a": Length(tiny())})


OPTIONS = {
    "trust_remote_code is None, expected True or False": {"trust_remote_code": None},
    "trust_remote_code is 'False', expected True or False": {"trust_remote_code": "False"},
    "device is 'gpu', expected one of this machine with float64": {"device": "gpu"},
    "device is -1, expected one of this machine with float64": {"device": -1},
    "device is 'meta', expected .*: it holds no numbers": {"device": "meta"},
    "device is 1.5, expected one of this machine with float64": {"device": 1.5},
    "dtype is 'int8'": {"dtype": "int8"},
    "dtype is None": {"dtype": None},
    "gguf_file is a int": {"gguf_file": 3},
    "revision is a int": {"revision": 3},
    "revision is 'main', and .* is a folder": {"revision": "main"},
    "base is model/film_reviews, which is for an adapter": {"base": "model/film_reviews"},
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_options_of_loading_are_named(fault, tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises((TypeError, ValueError), match=fault):
        LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, **OPTIONS[fault])


def test_a_device_can_be_a_number(tmp_path, monkeypatch):
    """0 is a device, and not none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("took another device"))
    tiny().save_pretrained(tmp_path)
    try:
        assert LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device=0).device.index == 0
    except ValueError as error:
        # a machine without such a device
        assert "device is 0, expected one of this machine" in str(error)  # noqa: PT017

"""Impossible arguments of networks, features, heads and rewards are refused by name."""

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
    RewardPosterior,
    SequenceClassifier,
    TextLikelihood,
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
from model.preferences.heads import MLPHead
from tests.model.rewards.test_networks import bert
from tests.model.tiny import llama, tiny, tiny_tokenizer

NO_COUNT = [0, -1, 1.5, float("nan"), "3", True, 10**12]
HEAD = LinearHead(2)
CENTER, PROJECTION = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
STANDARDISED = StandardisedFeatures(lambda texts: torch.ones(len(texts), 2), CENTER, PROJECTION)
SAMPLES = torch.ones(3, 2, dtype=torch.float64)


def lengths(texts):
    return torch.tensor([[float(len(text)), 1.0] for text in texts])


def padded():
    return tiny_tokenizer(pad_token="<pad>")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: SequenceClassifier(bert(), padded(), 0, batch_size=value), "batch_size"),
        (lambda value: TextLikelihood(llama(), padded(), batch_size=value), "batch_size"),
        (lambda value: EncoderFeatures(bert(), padded(), batch_size=value), "batch_size"),
        (lambda value: EncoderFeatures(bert(), padded(), max_length=value), "max_length"),
        (lambda value: PriorFeatures(tiny(), batch_size=value), "batch_size"),
        (
            lambda value: StandardisedFeatures.fit(lengths, ["a", "b b"], num_components=value),
            "num_components",
        ),
        (LinearHead, "num_features"),
        (lambda value: MLPHead(2, value), "hidden"),
        (lambda value: tiny(max_new_tokens=value), "max_new_tokens"),
    ],
)
def test_counts_are_whole_numbers_from_one_up(make, name):
    for value in NO_COUNT:
        with pytest.raises(
            ValueError, match=rf"^{name} is .*, expected a whole number of at least 1"
        ):
            make(value)


REFUSED = {
    "label is True, expected one of": lambda: SequenceClassifier(bert(), padded(), True),
    "label is a float": lambda: SequenceClassifier(bert(), padded(), 1.0),
    "output is 'probability', expected": lambda: SequenceClassifier(
        bert(), padded(), 0, output="probability"
    ),
    "tokenizer is a str": lambda: SequenceClassifier(bert(), "bert", 0),
    "per_token is 'no', expected True or False": lambda: TextLikelihood(
        llama(), padded(), per_token="no"
    ),
    "neither a padding token nor": lambda: EncoderFeatures(bert(), tiny_tokenizer(eos_token=None)),
    "language_model is a GPT2LMHeadModel, expected a LanguageModel": lambda: PriorFeatures(
        tiny().network
    ),
    "language_model is a GPT2LMHeadModel, expected a": lambda: Expert(tiny().network, tiny()),
    "prior is a str, expected a LanguageModel": lambda: Expert(tiny(), "film-reviews"),
    "function is a int, expected a function": lambda: TokenReward(3, tiny()),
    "reward 'reward' is the class int": lambda: AlignmentModel(tiny(), int, 1.0),
    "beta is {}, expected a number": lambda: AlignmentModel(tiny(), {}, {}),
    "expected one number or a dict": lambda: AlignmentModel(tiny(), {}, [1.0, 2.0]),
    "expected one number or a": lambda: AlignmentModel(tiny(), {}, torch.ones(2)),
    "the reward of constraint 'constraint' is a float, expected a function": lambda: Constraint(
        0.5, at_least=0
    ),
    "at_least is tensor": lambda: Constraint(Length(tiny()), at_least=torch.zeros(2)),
    "at_most is -inf, expected a finite": lambda: Constraint(Length(tiny()), at_most=-torch.inf),
    "name is a NoneType": lambda: Constraint(Length(tiny()), at_most=0, name=None),
    "words is a int": lambda: contains(3, tiny()),
    "whole is 'no', expected True or False": lambda: contains("a", tiny(), whole="no"),
    "whole is 1, expected True or False": lambda: matches("a", tiny(), whole=1),
    "count is 'no', expected True or False": lambda: Pattern("a", count="no"),
    "ignore_case is None, expected True or False": lambda: Pattern("a", ignore_case=None),
    "parts is a list, expected a Mapping": lambda: WeightedSum([Length(tiny())]),
    "the part 'a' is .*, expected a weight and a reward": lambda: WeightedSum(
        {"a": Length(tiny())}
    ),
    "reward 'a' is a int": lambda: WeightedSum({"a": (1.0, 3)}),
    "features is a list, expected a Mapping": lambda: Tilt([], {}),
    "multipliers is a int, expected a Mapping": lambda: Tilt({}, 3),
    "feature 'a' is a int": lambda: Tilt({"a": 3}, {"a": 1.0}),
    "for the prompt 'a' beta is nan": lambda: AlignmentModel(tiny(), {}, {"a": float("nan")}),
    "factors is a list, expected a Mapping": lambda: AlignmentModel(tiny(), {}, 1.0, [3]),
    "factor 'a' is a int": lambda: AlignmentModel(tiny(), {}, 1.0, {"a": 3}),
    "a reward and a factor are both named 'a'": lambda: AlignmentModel(
        tiny(), {"a": Length(tiny())}, 1.0, {"a": Length(tiny())}
    ),
    "a preference is a tuple, expected a Preference": lambda: Comparisons.of([("a", "b")], lengths),
    "preferences is a int": lambda: Comparisons.of(3, lengths),
    "features is a NoneType": lambda: Comparisons.of([Preference("", "a", "b")], None),
    "source is a int, expected a Iterable: of mappings, or a path": lambda: read_preferences(3),
    "steps is -1": lambda: grammar_prior(steps=-1),
    "steps is 1000000000000": lambda: grammar_prior(steps=10**12),
    "seed is 0.5": lambda: grammar_prior(seed=0.5),
    "sentences is a list, expected a Mapping": lambda: grammar_prior(sentences=["a"]),
    "sentences is empty": lambda: grammar_prior(sentences={}),
    "the probability of 'a' is -1": lambda: grammar_prior(sentences={"a": -1.0}),
    "response is a list, expected a Tensor": lambda: tiny().decode([[0, 1, 2]]),
    "prompts is a list, expected a Prompts": lambda: tiny().decode(torch.zeros(1, 3).long(), ["a"]),
    "target is 1.5, expected": lambda: Length(tiny(), 1.5),
    "target is True, expected": lambda: Length(tiny(), True),
    "language_model is a str": lambda: Length("film-reviews"),
    "features is a int, expected a function": lambda: StandardisedFeatures(3, CENTER, PROJECTION),
    "center is a list, expected a Tensor": lambda: StandardisedFeatures(
        lengths, [0, 0], PROJECTION
    ),
    r"center has shape \(2,\) and projection \(3, 3\)": lambda: StandardisedFeatures(
        lengths, CENTER, torch.eye(3)
    ),
    "center or projection is NaN": lambda: StandardisedFeatures(lengths, CENTER / 0, PROJECTION),
    "texts is 'text', expected at least two texts": lambda: StandardisedFeatures.fit(
        lengths, "text"
    ),
    r"texts is \['a'\], expected at least two texts": lambda: StandardisedFeatures.fit(
        lengths, ["a"]
    ),
    "whiten is 1, expected True or False": lambda: StandardisedFeatures.fit(
        lengths, ["a", "b b"], whiten=1
    ),
    "head is a function": lambda: RewardPosterior(lengths, STANDARDISED, SAMPLES),
    "features is a function, expected a StandardisedFeatures": lambda: RewardPosterior(
        HEAD, lengths, SAMPLES
    ),
    "samples is a list, expected a Tensor": lambda: RewardPosterior(
        HEAD, STANDARDISED, [[1.0, 1.0]]
    ),
    "samples have weights that are NaN or inf": lambda: RewardPosterior(
        HEAD, STANDARDISED, SAMPLES / 0
    ),
    "features is a str": lambda: RewardPosterior.load("none", "features"),
    "posterior is a str": lambda: UncertainReward("posterior", "mean"),
    "aggregation is a int, expected a function: or one of": lambda: UncertainReward(lengths, 3),
    "head is a NoneType": lambda: BradleyTerry(None),
    "prior_mean is a list": lambda: BradleyTerry(HEAD, prior_mean=[0, 0]),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_other_arguments_are_named(fault):
    with pytest.raises((TypeError, ValueError), match=fault):
        REFUSED[fault]()


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

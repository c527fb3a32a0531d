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


@pytest.mark.parametrize(
    ("make", "error", "fault"),
    [
        (
            lambda: SequenceClassifier(bert(), padded(), True),
            ValueError,
            "label is True, expected one of",
        ),
        (lambda: SequenceClassifier(bert(), padded(), 1.0), TypeError, "label is a float"),
        (
            lambda: SequenceClassifier(bert(), padded(), 0, output="probability"),
            ValueError,
            "output is 'probability', expected",
        ),
        (lambda: SequenceClassifier(bert(), "bert", 0), TypeError, "tokenizer is a str"),
        (
            lambda: TextLikelihood(llama(), padded(), per_token="no"),
            TypeError,
            "per_token is 'no', expected True or False",
        ),
        (
            lambda: EncoderFeatures(bert(), tiny_tokenizer(eos_token=None)),
            ValueError,
            "neither a padding token nor",
        ),
        (
            lambda: PriorFeatures(tiny().network),
            TypeError,
            "language_model is a GPT2LMHeadModel, expected a LanguageModel",
        ),
        (
            lambda: Expert(tiny().network, tiny()),
            TypeError,
            "language_model is a GPT2LMHeadModel, expected a LanguageModel",
        ),
        (
            lambda: Expert(tiny(), "film-reviews"),
            TypeError,
            "prior is a str, expected a LanguageModel",
        ),
        (lambda: TokenReward(3, tiny()), TypeError, "function is a int, expected a function"),
        (
            lambda: AlignmentModel(tiny(), int, 1.0),
            TypeError,
            "reward 'reward' is the class int",
        ),
        (lambda: AlignmentModel(tiny(), {}, {}), ValueError, "beta is {}, expected a number"),
        (
            lambda: AlignmentModel(tiny(), {}, [1.0, 2.0]),
            TypeError,
            "expected one number or a dict",
        ),
        (lambda: AlignmentModel(tiny(), {}, torch.ones(2)), TypeError, "expected one number or a"),
        (
            lambda: Constraint(0.5, at_least=0),
            TypeError,
            "the reward of constraint 'constraint' is a float, expected a function",
        ),
        (
            lambda: Constraint(Length(tiny()), at_least=torch.zeros(2)),
            ValueError,
            "at_least is tensor",
        ),
        (
            lambda: Constraint(Length(tiny()), at_most=-torch.inf),
            ValueError,
            "at_most is -inf, expected a finite",
        ),
        (lambda: Constraint(Length(tiny()), at_most=0, name=None), TypeError, "name is a NoneType"),
        (lambda: contains(3, tiny()), TypeError, "words is a int"),
        (
            lambda: contains("a", tiny(), whole="no"),
            TypeError,
            "whole is 'no', expected True or False",
        ),
        (lambda: matches("a", tiny(), whole=1), TypeError, "whole is 1, expected True or False"),
        (lambda: Pattern("a", count="no"), TypeError, "count is 'no', expected True or False"),
        (
            lambda: Pattern("a", ignore_case=None),
            TypeError,
            "ignore_case is None, expected True or False",
        ),
        (lambda: WeightedSum([Length(tiny())]), TypeError, "parts is a list, expected a Mapping"),
        (
            lambda: WeightedSum({"a": Length(tiny())}),
            TypeError,
            "the part 'a' is .*, expected a weight and a reward",
        ),
        (lambda: WeightedSum({"a": (1.0, 3)}), TypeError, "reward 'a' is a int"),
        (lambda: Tilt([], {}), TypeError, "features is a list, expected a Mapping"),
        (lambda: Tilt({}, 3), TypeError, "multipliers is a int, expected a Mapping"),
        (lambda: Tilt({"a": 3}, {"a": 1.0}), TypeError, "feature 'a' is a int"),
        (
            lambda: AlignmentModel(tiny(), {}, {"a": float("nan")}),
            ValueError,
            "for the prompt 'a' beta is nan",
        ),
        (
            lambda: AlignmentModel(tiny(), {}, 1.0, [3]),
            TypeError,
            "factors is a list, expected a Mapping",
        ),
        (lambda: AlignmentModel(tiny(), {}, 1.0, {"a": 3}), TypeError, "factor 'a' is a int"),
        (
            lambda: AlignmentModel(tiny(), {"a": Length(tiny())}, 1.0, {"a": Length(tiny())}),
            ValueError,
            "a reward and a factor are both named 'a'",
        ),
        (
            lambda: Comparisons.of([("a", "b")], lengths),
            TypeError,
            "a preference is a tuple, expected a Preference",
        ),
        (lambda: Comparisons.of(3, lengths), TypeError, "preferences is a int"),
        (
            lambda: Comparisons.of([Preference("", "a", "b")], None),
            TypeError,
            "features is a NoneType",
        ),
        (
            lambda: read_preferences(3),
            TypeError,
            "source is a int, expected a Iterable: of mappings, or a path",
        ),
        (lambda: grammar_prior(steps=-1), ValueError, "steps is -1"),
        (lambda: grammar_prior(steps=10**12), ValueError, "steps is 1000000000000"),
        (lambda: grammar_prior(seed=0.5), ValueError, "seed is 0.5"),
        (
            lambda: grammar_prior(sentences=["a"]),
            TypeError,
            "sentences is a list, expected a Mapping",
        ),
        (lambda: grammar_prior(sentences={}), ValueError, "sentences is empty"),
        (lambda: grammar_prior(sentences={"a": -1.0}), ValueError, "the probability of 'a' is -1"),
        (lambda: tiny().decode([[0, 1, 2]]), TypeError, "response is a list, expected a Tensor"),
        (
            lambda: tiny().decode(torch.zeros(1, 3).long(), ["a"]),
            TypeError,
            "prompts is a list, expected a Prompts",
        ),
        (lambda: Length(tiny(), 1.5), ValueError, "target is 1.5, expected"),
        (lambda: Length(tiny(), True), ValueError, "target is True, expected"),
        (lambda: Length("film-reviews"), TypeError, "language_model is a str"),
        (
            lambda: StandardisedFeatures(3, CENTER, PROJECTION),
            TypeError,
            "features is a int, expected a function",
        ),
        (
            lambda: StandardisedFeatures(lengths, [0, 0], PROJECTION),
            TypeError,
            "center is a list, expected a Tensor",
        ),
        (
            lambda: StandardisedFeatures(lengths, CENTER, torch.eye(3)),
            ValueError,
            r"center has shape \(2,\) and projection \(3, 3\)",
        ),
        (
            lambda: StandardisedFeatures(lengths, CENTER / 0, PROJECTION),
            ValueError,
            "center or projection is NaN",
        ),
        (
            lambda: StandardisedFeatures.fit(lengths, "text"),
            ValueError,
            "texts is 'text', expected at least two texts",
        ),
        (
            lambda: StandardisedFeatures.fit(lengths, ["a"]),
            ValueError,
            r"texts is \['a'\], expected at least two texts",
        ),
        (
            lambda: StandardisedFeatures.fit(lengths, ["a", "b b"], whiten=1),
            TypeError,
            "whiten is 1, expected True or False",
        ),
        (lambda: RewardPosterior(lengths, STANDARDISED, SAMPLES), TypeError, "head is a function"),
        (
            lambda: RewardPosterior(HEAD, lengths, SAMPLES),
            TypeError,
            "features is a function, expected a StandardisedFeatures",
        ),
        (
            lambda: RewardPosterior(HEAD, STANDARDISED, [[1.0, 1.0]]),
            TypeError,
            "samples is a list, expected a Tensor",
        ),
        (
            lambda: RewardPosterior(HEAD, STANDARDISED, SAMPLES / 0),
            ValueError,
            "samples have weights that are NaN or inf",
        ),
        (lambda: RewardPosterior.load("none", "features"), TypeError, "features is a str"),
        (lambda: UncertainReward("posterior", "mean"), TypeError, "posterior is a str"),
        (
            lambda: UncertainReward(lengths, 3),
            TypeError,
            "aggregation is a int, expected a function: or one of",
        ),
        (lambda: BradleyTerry(None), TypeError, "head is a NoneType"),
        (lambda: BradleyTerry(HEAD, prior_mean=[0, 0]), TypeError, "prior_mean is a list"),
        (lambda: BradleyTerry(HEAD, prior_scale="1"), ValueError, "prior_scale is '1'"),
        (lambda: BradleyTerry(HEAD, tie_strength=-1), ValueError, "tie_strength is -1"),
        (lambda: BradleyTerry(HEAD, flip=False), ValueError, "flip is False"),
        (lambda: tiny(temperature="1"), ValueError, "temperature is '1'"),
        (lambda: tiny(temperature=float("inf")), ValueError, "temperature is inf"),
        (
            lambda: tiny(end_ids="<end>"),
            TypeError,
            "end_ids is '<end>', expected a list of token ids",
        ),
        (lambda: tiny(end_ids=0), TypeError, "end_ids is 0, expected a list of token ids"),
        (lambda: tiny(end_ids=[0.0]), ValueError, "end_ids has 0.0"),
        (lambda: tiny(pad_id=True), ValueError, "pad_id has True"),
    ],
)
def test_other_arguments_are_named(make, error, fault):
    with pytest.raises(error, match=fault):
        make()


@pytest.mark.parametrize(
    ("options", "error", "fault"),
    [
        (
            {"trust_remote_code": None},
            TypeError,
            "trust_remote_code is None, expected True or False",
        ),
        (
            {"trust_remote_code": "False"},
            TypeError,
            "trust_remote_code is 'False', expected True or False",
        ),
        (
            {"device": "gpu"},
            ValueError,
            "device is 'gpu', expected one of this machine with float64",
        ),
        ({"device": -1}, ValueError, "device is -1, expected one of this machine with float64"),
        ({"device": "meta"}, ValueError, "device is 'meta', expected .*: it holds no numbers"),
        ({"device": 1.5}, ValueError, "device is 1.5, expected one of this machine with float64"),
        ({"dtype": "int8"}, ValueError, "dtype is 'int8'"),
        ({"dtype": None}, ValueError, "dtype is None"),
        ({"gguf_file": 3}, TypeError, "gguf_file is a int"),
        ({"revision": 3}, TypeError, "revision is a int"),
        ({"revision": "main"}, ValueError, "revision is 'main', and .* is a folder"),
        (
            {"base": "model/film_reviews"},
            ValueError,
            "base is model/film_reviews, which is for an adapter",
        ),
    ],
)
def test_options_of_loading_are_named(options, error, fault, tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(error, match=fault):
        LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, **options)


def test_a_device_can_be_a_number(tmp_path, monkeypatch):
    """0 is a device, and not none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("took another device"))
    tiny().save_pretrained(tmp_path)
    try:
        assert LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device=0).device.index == 0
    except ValueError as error:
        # a machine without such a device
        assert "device is 0, expected one of this machine" in str(error)  # noqa: PT017

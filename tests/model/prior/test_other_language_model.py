"""Objects of another language model are refused by name, objects of a copy are not."""

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2ForSequenceClassification

from guides import FineTuned, MeanField, NGram, Tabular, Twisted
from inference import match_moments
from model import (
    AlignmentModel,
    Constraint,
    LanguageModel,
    Length,
    OtherLanguageModelError,
    Prompts,
    SequenceClassifier,
    TextReward,
    Tilt,
    TokenReward,
    WeightedSum,
    vader_sentiment,
)
from model.preferences import EncoderFeatures
from tests.model.tiny import PROMPTS, tiny, tiny_tokenizer
from tests.model.tokenizers import chat, language_model_of

OTHERS: dict[str, Callable[[], LanguageModel]] = {
    "max_new_tokens": lambda: tiny(max_new_tokens=2),
    "end_ids": lambda: tiny(end_ids=[0, 4]),
    "pad_id": lambda: tiny(pad_id=3),
    "vocab_size": lambda: language_model_of(chat(), max_new_tokens=3, end_ids=[0], pad_id=0),
    "entries": lambda: LanguageModel(tiny().network, renamed(), max_new_tokens=3),
}


def renamed():
    """The words of the tiny tokenizer in another order."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        WordLevel({"<end>": 0, "<pad>": 1, "c": 2, "a": 3, "b": 4}, unk_token="c")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")


def text_reward(other: LanguageModel) -> TextReward:
    return TextReward(vader_sentiment, other)


PIECES = {
    "text": text_reward,
    "token": lambda other: TokenReward(lambda response, _: response.sum(-1), other),
    "length": Length,
    "constraint": lambda other: Constraint(text_reward(other), at_least=0.5),
    "sum": lambda other: WeightedSum(
        {"any": (1.0, lambda prompts, response: response), "one": (2.0, Length(other))}
    ),
    "tilt": lambda other: Tilt({"one": Length(other)}, {"one": 1.0}),
}


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("what", OTHERS)
def test_rewards_and_factors_for_another_language_model_are_refused_with_the_difference(kind, what):
    match = rf"factor 'good' was made for another .* they have .*{what}"
    with pytest.raises(OtherLanguageModelError, match=match):
        AlignmentModel(tiny(), {}, 1.0, {"good": PIECES[kind](OTHERS[what]())})


@pytest.mark.parametrize("what", ["end_ids", "pad_id"])
def test_features_of_moments_for_another_language_model_are_refused(what):
    prior = tiny()
    base, features = AlignmentModel(prior, {}, 1.0), {"one": Length(OTHERS[what]())}
    match = rf"feature 'one' was made for another .* they have {what}"
    with pytest.raises(OtherLanguageModelError, match=match):
        match_moments(base, prior.encode(PROMPTS), features, {"one": 0.5})


@pytest.mark.parametrize("make", [SequenceClassifier, EncoderFeatures])
def test_reward_does_not_change_the_tokenizer_of_a_language_model(make, tmp_path):
    """A changed tokenizer would pad by another id after saving and loading."""
    prior = LanguageModel(
        tiny(end_ids=[0]).network, tiny_tokenizer(eos_token="c"), max_new_tokens=3
    )
    before = (
        prior.tokenizer.pad_token,
        prior.tokenizer.padding_side,
        prior.tokenizer.truncation_side,
    )
    network = GPT2ForSequenceClassification(prior.network.config)
    reward = (
        make(network, prior.tokenizer, 0)
        if make is SequenceClassifier
        else make(network, prior.tokenizer)
    )
    assert reward(["a b", "c"]).isfinite().all()
    assert (
        prior.tokenizer.pad_token,
        prior.tokenizer.padding_side,
        prior.tokenizer.truncation_side,
    ) == before
    prior.save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device="cpu")
    assert loaded.space.difference(prior.space) is None


@pytest.mark.parametrize("kind", ["text", "token", "length"])
def test_reward_refuses_prompts_and_responses_of_another_language_model(kind):
    """A reward without a model, as in a plain Pyro program."""
    for whole in (True, False):
        reward = (
            TextReward(vader_sentiment, tiny(), whole=whole)
            if kind == "text"
            else PIECES[kind](tiny())
        )
        match = "the first is 'a b c a', were encoded by the tokenizer of another"
        with pytest.raises(OtherLanguageModelError, match=match):
            reward(OTHERS["entries"]().encode(PROMPTS), torch.zeros(3, 3, dtype=torch.long))
        match = "have 2 positions where those of the language model have 3"
        with pytest.raises(OtherLanguageModelError, match=match):
            reward(tiny().encode(PROMPTS), torch.zeros(3, 2, dtype=torch.long))


@pytest.mark.parametrize("what", ["vocab_size", "entries"])
def test_prompts_of_another_tokenizer_are_refused_by_prior_guides_and_decode(what):
    prior, prompts = tiny(), OTHERS[what]().encode(PROMPTS if what == "entries" else ["a"])
    programs = [
        prior,
        *(guide.distribution for guide in (FineTuned(prior), Twisted(prior), NGram(prior))),
    ]
    response = torch.zeros(len(prompts), 3, dtype=torch.long)
    programs += [lambda prompts: MeanField(prior, prompts), lambda prompts: Tabular(prior, prompts)]
    for program in (*programs, lambda prompts: prior.decode(response, prompts)):
        for some in (prompts, prompts[[0]], prompts.to("cpu")):
            match = "were encoded by the tokenizer of another"
            with pytest.raises(OtherLanguageModelError, match=match):
                program(some)


def test_prompts_encoded_for_shorter_responses_or_of_unknown_ids_are_refused():
    prior = tiny()
    prompts = prior.encode(["a " * 13])
    with pytest.raises(ValueError, match=r"has 13 tokens: with max_new_tokens=4 .* context of 16"):
        tiny(max_new_tokens=4)(prompts)
    with pytest.raises(ValueError, match=r"token ids from . to 5, not all known"):
        prior(Prompts.from_ids([[2, 5]], ["a ?"]))


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), OtherLanguageModelError, "2 positions"),
        (
            torch.full((3, 3), 5),
            OtherLanguageModelError,
            "token ids from 5 to 5, and the language model has 5",
        ),
        (torch.full((3, 3), -1), OtherLanguageModelError, "token ids from -1"),
        (torch.zeros(2, 3, dtype=torch.long), ValueError, "responses to 2 prompts and 3 prompts"),
        (torch.zeros(3, 3), ValueError, "expected token ids"),
        (torch.zeros(3, dtype=torch.long), ValueError, "expected token ids"),
    ],
)
def test_decode_refuses_responses_of_another_language_model(response, error, message):
    prior = tiny()
    with pytest.raises(error, match=message):
        prior.decode(response, prior.encode(PROMPTS))


def test_copies_of_a_language_model_are_the_same(tmp_path):
    """Copies: saved and loaded, trained, and with other weights and settings of the network."""
    prior = tiny()
    prior.save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device="cpu")
    for other in (loaded, FineTuned(prior).language_model, tiny(temperature=0.5), tiny("llama")):
        prompts = other.encode(PROMPTS)
        model = AlignmentModel(
            prior, {"any": PIECES["sum"](other), "text": text_reward(other)}, 1.0
        )
        response = model.prior(prompts).sample()
        assert other.decode(response, prompts) == prior.decode(response, prompts)

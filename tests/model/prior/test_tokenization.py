"""The text of a reward: prompt as written, response decoded, for every tokenizer."""

import warnings

import pytest
import torch
from tokenizers import normalizers
from torch.testing import assert_close
from transformers import AutoTokenizer

from model import AlignmentModel, TextLikelihood, TextReward, read_preferences
from model.networks.text_network import without_beginning
from model.preferences import (
    LinearHead,
    PriorFeatures,
    RewardPosterior,
    StandardisedFeatures,
    UncertainReward,
)
from model.prior.tokenization import ends_within_token, token_rows
from tests.model.tokenizers import CHAT, TOKENIZERS, chat, language_model_of, metaspace, word_piece

PAIRS = [
    ("the film", "s good ."),
    ("the film", " good"),
    ("the", " film good ."),
    ("the film", " \u00fc\u2764"),
    ("", "the film"),
]


def ids_of(prior, prompt, response):
    """Tokens of the response after the prompt, with the end: `[1, T]`."""
    head, whole = token_rows(prior.tokenizer, [prompt, prompt + response])
    rest = whole[len(head) :]
    return torch.tensor([(rest + [prior.end_ids[0]] * 16)[: prior.max_new_tokens]])


# One text in training and in steering


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("prompt", "response"), PAIRS)
def test_prompt_and_response_read_as_they_were_written(kind, prompt, response):
    """First word with a space, no space inside a word, characters of several tokens."""
    if kind == "word-piece" and "\u00fc" in response:
        response = " good"  # a tokenizer of few words
    prior = language_model_of(TOKENIZERS[kind](), max_new_tokens=16)
    if not prompt and prior.tokenizer.bos_token is None:
        prompt = "a"
    assert prior.decode(ids_of(prior, prompt, response), prior.encode([prompt])) == [
        prompt + response
    ]


def test_sentencepiece_of_a_real_checkpoint_keeps_the_space(stories_folder):
    from model import LanguageModel

    prior = LanguageModel.from_pretrained(stories_folder, max_new_tokens=8, device="cpu")
    for prompt, response in (("Once upon a time", " there was"), ("", "Once upon")):
        assert prior.decode(ids_of(prior, prompt, response), prior.encode([prompt])) == [
            prompt + response
        ]


def test_prompt_is_as_written_where_the_tokenizer_rewrites_it():
    for tokenizer in (word_piece(), metaspace(normalizers.Lowercase())):
        prior = language_model_of(tokenizer)
        assert prior.decode(ids_of(prior, "The  FILM", " good"), prior.encode(["The  FILM"])) == [
            "The  FILM good"
        ]


def test_special_tokens_are_read_and_the_end_is_not():
    """Special tokens of prompt and response; each prompt in front of its responses."""
    prior = language_model_of(chat("<bos> $A"), max_new_tokens=3)
    prompts = prior.encode(["<user> a b <assistant>", "<user> c"])
    response = torch.tensor([[[6, 1, 1], [3, 7, 4]], [[0, 2, 1], [1, 1, 1]]])
    assert prior.decode(response, prompts) == [
        ["<user> a b <assistant> c", "<user> c <assistant> d a"],
        ["<user> a b <assistant> <bos> <user>", "<user> c"],
    ]
    assert prior.decode(response[0]) == ["c", "<assistant> d a"]


def test_text_of_a_response_is_tokenized_to_the_ids_that_the_network_read():
    prior = language_model_of(chat("<bos> $A"), max_new_tokens=2)
    prompts, support = prior.encode(["<user> a <assistant>"]), prior.space.enumerate()
    texts = [text for (text,) in prior.decode(support[:, None], prompts)]
    read = [prompts.rows()[0] + [token for token in row if token != 1] for row in support.tolist()]
    assert token_rows(prior.tokenizer, texts) == read


def test_reward_learned_on_a_conversation_is_the_reward_that_steers():
    prior = language_model_of(chat("<bos> $A"), max_new_tokens=2)
    rows = [
        {"prompt": "<user> a b <assistant>", "chosen": " c", "rejected": " d"},
        {"prompt": "<user> c <assistant>", "chosen": " a a", "rejected": " <user> d"},
    ]
    preferences = read_preferences(rows)
    texts = [text for preference in preferences for text in preference.texts]
    features = StandardisedFeatures.fit(PriorFeatures(prior), texts)
    reward = RewardPosterior(
        LinearHead(features.num_features), features, torch.randn(3, features.num_features).double()
    )
    learned = reward(texts).mean(0)  # [4]: chosen and rejected of the first, then of the second
    model = AlignmentModel(prior, TextReward(UncertainReward(reward, "mean"), prior), 1.0)
    response = torch.tensor([[[6, 1], [4, 4]], [[7, 1], [2, 7]]])  # [K, N, T]: chosen, rejected
    steered = model.reward(prior.encode([row["prompt"] for row in rows]), response)
    assert_close(steered.T.flatten(), learned, rtol=0, atol=1e-12)
    assert not torch.allclose(
        learned[0], reward(["a b c"]).mean(0), atol=1e-3
    )  # which was read instead


# The tokens of a text


@pytest.mark.parametrize(
    "template", ["$A", "<bos> $A", "$A <end>", "<bos> $A <end>", "<bos> <user> $A"]
)
@pytest.mark.parametrize(
    ("text", "words"), [("a b", "a b"), ("<user> a", "<user> a"), ("a <end>", "a <end>"), ("", "")]
)
def test_beginning_is_added_and_no_end(template, text, words):
    begin = template.partition("$A")[0].split()
    rows = token_rows(chat(template), [text, "b"])
    assert rows == [
        [CHAT.index(word) for word in [*begin, *written]] for written in (words.split(), ["b"])
    ]
    prompts = language_model_of(chat(template)).encode([text, "b"])
    assert prompts.rows() == [row or [0] for row in rows]


@pytest.mark.parametrize("template", ["$A", "<bos> $A", "<bos> $A <end>"])
def test_text_of_a_template_does_not_begin_twice(template):
    tokenizer = chat(template)
    assert token_rows(tokenizer, ["<bos> <user> a", "<bos>"]) == [[0, 2, 4], [0]]
    adds = template.startswith("<bos>")
    assert without_beginning(tokenizer, ["<bos> a", "a"]) == [" a" if adds else "<bos> a", "a"]
    likelihood = TextLikelihood(language_model_of(tokenizer).network, tokenizer, per_token=False)
    assert torch.allclose(likelihood(["<bos> a b"]), likelihood(["a b"]), rtol=0, atol=1e-9)


def test_cls_that_begins_a_text_is_no_second_one():
    tokenizer = TOKENIZERS["word-piece"]()
    tokenizer.bos_token = None
    assert without_beginning(tokenizer, ["[CLS] the film", "the film"]) == [" the film", "the film"]
    assert token_rows(tokenizer, ["[CLS] the film"]) == token_rows(tokenizer, ["the film"])


def test_features_have_no_second_beginning_and_no_end():
    for template in ("<bos> $A", "<bos> $A <end>"):
        prior = language_model_of(chat(template))
        features = PriorFeatures(prior)
        states = prior.network.base_model(torch.tensor([[0, 2, 4]])).last_hidden_state
        for text in ("<bos> <user> a", "<user> a"):
            assert_close(features([text])[0], states[0].mean(0), rtol=1e-5, atol=1e-12)


# Ends


def test_a_space_at_the_end_that_begins_the_next_token_is_warned_of(prior):
    """In front of a word the space is a part of the word's token."""
    tokenizer = AutoTokenizer.from_pretrained("model/film_reviews")
    texts = ["The film was ", "The film was", "The film was\n", ""]
    assert [ends_within_token(tokenizer, text) for text in texts] == [True, False, False, False]
    for each in (*(TOKENIZERS[kind]() for kind in ("byte-level", "python")), prior.tokenizer):
        assert not ends_within_token(each, "the film ")
    film = language_model_of(tokenizer, max_new_tokens=2)
    with pytest.warns(UserWarning, match="1 prompts end in a space, first prompt 1: the tokenizer"):
        film.encode(["The film was", "The film was "])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %} Answer: {% endif %}"
    question, answer = ({"role": role, "content": "film "} for role in ("user", "assistant"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        film.encode([[question]])  # the template's own space
    with pytest.warns(UserWarning, match="1 prompts end in a space, first prompt 0"):
        film.encode([[question, answer]])

"""The recipe of the embedded prior, on a handful of sentences."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.pretrain import (
    Pretrain,
    bits_per_character,
    cut_at_sentences,
    to_stream,
    train,
    train_tokenizer,
)

REVIEWS = [["The film was good.", "I liked it!"], ["The plot was dull.", "The end."]] * 20
ARGS = Pretrain(vocab_size=300, window=16, batch=8, steps=30)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(REVIEWS, ARGS)


@pytest.fixture
def network(tokenizer):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "n_positions": 16,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
    }
    return GPT2LMHeadModel(
        GPT2Config(
            **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0
        )
    )


def test_tokenizer_loses_nothing_and_begins_with_the_end_token(tokenizer):
    ids = tokenizer("The café was ok — 10/10")["input_ids"]
    assert ids[0] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert tokenizer.decode(ids[1:]) == "The café was ok — 10/10"


@pytest.mark.parametrize("width", [3, 5, 16])
def test_windows_predict_every_token_once(tokenizer, width):
    stream = to_stream(REVIEWS, tokenizer).tolist()
    windows = cut_at_sentences(stream, width)
    assert [i for start, stop in windows for i in range(start + 1, stop + 1)] == list(
        range(1, len(stream))
    )
    assert all(stop - start <= width for start, stop in windows)


def test_bits_of_a_uniform_model(tokenizer, network):
    """With all logits equal every token costs log2 V bits."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    tokens = len(to_stream(REVIEWS, tokenizer)) - 1
    characters = sum(len(" ".join(review)) + 1 for review in REVIEWS)
    expected = tokens * math.log2(len(tokenizer)) / characters
    assert bits_per_character(network, REVIEWS, tokenizer) == pytest.approx(expected, rel=1e-5)


def test_training_lowers_the_bits(tokenizer, network):
    before = bits_per_character(network, REVIEWS, tokenizer)
    train(network, to_stream(REVIEWS, tokenizer), ARGS, save=lambda: None)
    assert bits_per_character(network, REVIEWS, tokenizer) < 0.7 * before

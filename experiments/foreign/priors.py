"""Priors of the cells, by name.

A response of `stories260k` and of `smollm2` also ends at a full stop: the first would never end by
itself, the second rarely within 12 tokens. The random networks write words of a short list.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from model import LanguageModel
from model.prior.grammar import word_tokenizer
from model.prior.named_priors import load_prior, prior_files

WORDS = """
the a an of in to with for from but and not very so too was is were has had this that film
movie story plot cast scene music ending director actor time man woman child day night she he they
it we you who saw made liked good great happy love fun best bad sad boring poor awful worst
"""
"""Words of the random networks, of which VADER scores every fifth."""

Sizes: TypeAlias = Mapping[str, Any]


@cache
def load(name: str, length: int, stories: Path | None) -> LanguageModel:
    """The prior of that name, with responses of at most `length` tokens."""
    if name.startswith("film-reviews-"):
        temperature = float(name.removeprefix("film-reviews-"))
        return load_prior("film-reviews", max_new_tokens=length, temperature=temperature)
    if name.startswith("random-"):
        return random_prior(name.removeprefix("random-"), length)
    if name == "stories260k":
        name = str(stories)
    return _ending_at_stops(load_prior(name, max_new_tokens=length))


def absence(name: str, stories: Path | None) -> str:
    """Reason for which a prior is absent; empty if the prior is present."""
    try:
        if name == "smollm2":
            prior_files(name)
        if name == "stories260k" and stories is None:
            return "--stories names no folder"
    except ValueError as error:
        return str(error)
    return ""


def _ending_at_stops(prior: LanguageModel) -> LanguageModel:
    stop = prior.tokenizer.convert_tokens_to_ids(".")
    end_ids, length = [*prior.end_ids, stop], prior.max_new_tokens
    return LanguageModel(prior.network, prior.tokenizer, max_new_tokens=length, end_ids=end_ids)


def random_prior(family: str, length: int) -> LanguageModel:
    """A network of two layers with random weights, seed 1, over the end and `WORDS`."""
    words = ["<end>", *WORDS.split()]
    # no pad_token_id: Llama's embedding of that token, here also the start, would be frozen at 0
    special = {"bos_token_id": 0, "eos_token_id": 0}
    shared = {"vocab_size": len(words), "initializer_range": 0.15, **special}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = FAMILIES[family](shared)
    tokenizer = word_tokenizer(words, bos_token="<end>", eos_token="<end>", pad_token="<end>")
    return LanguageModel(network, tokenizer, max_new_tokens=length)


def _gpt2(shared: Sizes) -> PreTrainedModel:
    sizes = {"n_positions": 128, "n_embd": 128, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**sizes, **shared))


def _llama(shared: Sizes) -> PreTrainedModel:
    sizes = {"max_position_embeddings": 128, "hidden_size": 128, "intermediate_size": 256}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **shared))


FAMILIES: dict[str, Callable[[Sizes], PreTrainedModel]] = {"gpt2": _gpt2, "llama": _llama}

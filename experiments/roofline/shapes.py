"""Shapes of networks with random weights, on which a step is timed.

Random weights cost what trained weights cost, and need no download. With random weights nearly no
response ends early, so that all have all their tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from model import LanguageModel
from model.prior.grammar import DROPOUT, SPECIAL
from model.prior.untrained import numbered_words


def _gpt2(vocab: int, layers: int, width: int, heads: int) -> PreTrainedConfig:
    sizes = {"vocab_size": vocab, "n_layer": layers, "n_embd": width, "n_head": heads}
    return GPT2Config(**sizes, **SPECIAL, **DROPOUT)


def _llama(
    vocab: int, layers: int, width: int, heads: int, kv_heads: int, inner: int
) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=vocab,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        tie_word_embeddings=True,
        **SPECIAL,
    )


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2-tiny": lambda: _gpt2(4096, 4, 256, 4),
    "gpt2-small": lambda: _gpt2(50257, 12, 768, 12),
    "smollm2-135m": lambda: _llama(49152, 30, 576, 9, 3, 1536),
    "llama-1.5b": lambda: _llama(151936, 28, 1536, 12, 2, 8960),
}
"""Configuration of each shape; the last has the sizes of Qwen2.5-1.5B."""


def random_prior(
    name: str, max_new_tokens: int, device: torch.device, dtype: torch.dtype, **options: Any
) -> LanguageModel:
    """A language model of a shape, with random weights and further options of the class."""
    config = SHAPES[name]()
    with device:
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<end>")
    tokenizer = numbered_words(config.vocab_size, **special)
    return LanguageModel(network, tokenizer, max_new_tokens=max_new_tokens, **options)

"""Networks on which a step is timed: priors by name, and shapes with random weights.

Random weights cost what trained weights cost, and need no download. With random weights nearly no
response ends early, so that all have all their tokens.
"""

from collections.abc import Callable
from typing import Any

from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from experiments.shared.refusals import FAULTS, blamed
from model import LanguageModel
from model.common.devices import named_device, named_dtype
from model.prior.grammar import DROPOUT, SPECIAL, numbered_words
from model.prior.named_priors import load_prior


def _gpt2(vocab: int, layers: int, width: int, heads: int) -> PreTrainedConfig:
    sizes = {"vocab_size": vocab, "n_layer": layers, "n_embd": width, "n_head": heads}
    return GPT2Config(**sizes, **SPECIAL, **DROPOUT)


def _llama(
    vocab: int, layers: int, width: int, heads: int, kv_heads: int, inner: int
) -> PreTrainedConfig:
    sizes = {"vocab_size": vocab, "num_hidden_layers": layers, "hidden_size": width}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return LlamaConfig(**sizes, intermediate_size=inner, tie_word_embeddings=True, **SPECIAL)


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2-tiny": lambda: _gpt2(4096, 4, 256, 4),
    "gpt2-small": lambda: _gpt2(50257, 12, 768, 12),
    "smollm2-135m": lambda: _llama(49152, 30, 576, 9, 3, 1536),
    "llama-1.5b": lambda: _llama(151936, 28, 1536, 12, 2, 8960),
}
"""Configuration of each shape; the last has the sizes of Qwen2.5-1.5B."""


def load(
    name: str, max_new_tokens: int, *, dtype: str, device: str | None, **options: Any
) -> LanguageModel:
    """A prior as `load_prior` knows it, or a shape with random weights, with options of the class.

    Exits at a name that is neither.
    """
    options |= {"max_new_tokens": max_new_tokens}
    if name in SHAPES:
        config = SHAPES[name]()
        with named_device(device):
            network = AutoModelForCausalLM.from_config(config, dtype=named_dtype(dtype))
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<end>")
        return LanguageModel(network, numbered_words(config.vocab_size, **special), **options)
    with blamed(f"--networks {name}", FAULTS):
        return load_prior(name, device=device, dtype=dtype, **options)


def prompt_of(name: str, num_words: int) -> str:
    """A prompt of words, a token each in the tokenizers of most networks."""
    return " ".join(f"w{i}" if name in SHAPES else "the" for i in range(1, num_words + 1))

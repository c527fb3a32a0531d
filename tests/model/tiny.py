"""Tiny language models with random weights, far from uniform; all responses can be listed.

The configurations include dropout: with dropout on, no two passes agree.
"""

from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from model import LanguageModel

WORDS = ("<end>", "<pad>", "a", "b", "c")
PROMPTS = ["a b c a", "", "b"]  # of different lengths, one of them empty
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
GPT2_SIZES = {"vocab_size": len(WORDS), "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
ENCODER_SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def gpt2() -> PreTrainedModel:
    """Absolute positions."""
    dropout = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    return GPT2LMHeadModel(GPT2Config(**GPT2_SIZES, initializer_range=0.5, **dropout, **SPECIAL))


def llama() -> PreTrainedModel:
    """Rotary positions, two heads sharing their keys and values."""
    sizes = {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 16,
        "hidden_size": 16,
        "intermediate_size": 32,
    }
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, **heads, **SPECIAL, initializer_range=0.3, attention_dropout=0.5)
    )


def encoder(**settings: int) -> BertModel:
    """A network that reads in both directions."""
    return BertModel(BertConfig(**ENCODER_SIZES | settings))


NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {"gpt2": gpt2, "llama": llama}


def tiny_tokenizer(**special: str | None) -> PreTrainedTokenizerFast:
    """Tokenizer of one id a word, nothing added to a text; `<end>` begins and ends, as in GPT-2."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="c"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{"bos_token": "<end>", "eos_token": "<end>"} | special
    )


def tiny(
    network: str = "gpt2", dtype: torch.dtype = torch.float64, **settings: object
) -> LanguageModel:
    """Language model of three tokens a response by default; `settings` are of `LanguageModel`."""
    torch.manual_seed(0)
    return LanguageModel(
        NETWORKS[network]().to(dtype), tiny_tokenizer(), **{"max_new_tokens": 3} | settings
    )


def plain_log_prob(language_model: LanguageModel, prompt: Tensor, response: Tensor) -> Tensor:
    """log p(response | prompt) by `log_softmax` on one sequence, no padding, no cache."""
    ids = torch.cat([prompt, response])[None]
    logits = language_model.network(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    per_token = (logits / language_model.temperature).log_softmax(-1)[
        torch.arange(len(response)), response
    ]
    ends = [t for t, token in enumerate(response.tolist()) if token in language_model.end_ids]
    return per_token[: ends[0] + 1 if ends else None].sum()

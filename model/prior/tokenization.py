"""Texts and token ids: the tokens of a text to go on from, and the text that a response adds to one.

A reward reads the prompt as written and the response decoded, special tokens included. It reads neither the
end of the response nor a beginning that the tokenizer adds. The same text, tokenized, gives the ids that the
network has read.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from model.common.digests import text_digest


def token_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of M texts to go on from: with the beginning that the tokenizer adds, and without its end.

    Special tokens that are written in a text are those tokens. A text that begins with the tokenizer's own
    beginning, as one of a chat template may, does not get a second one.
    """
    settings = {
        "return_token_type_ids": False,
        "return_attention_mask": False,
        "truncation": False,
        "padding": False,
    }
    rows = tokenizer(list(texts), **settings)["input_ids"]
    written = tokenizer(list(texts), **settings, add_special_tokens=False)["input_ids"]
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return [_to_go_on_from(*pair, ends) for pair in zip(rows, written, strict=True)]


def _to_go_on_from(row: list[int], written: list[int], ends: set[int]) -> list[int]:
    """`row`, of which `written` are the tokens of the text, up to the last of these."""
    if not written:
        while row and row[-1] in ends:
            row = row[:-1]
        return row
    # the first place where the text stands: a text with a beginning of its own stands where the added one does
    places = range(len(row) - len(written) + 1)
    start = next((i for i in places if row[i : i + len(written)] == written), None)
    if start is None:
        return row
    begin = row[:start]
    return written if written[:start] == begin else begin + written


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> str:
    """Digest of the tokenizer's entries below `vocab_size`: what a token id means."""
    entries = sorted(
        (index, token) for token, index in tokenizer.get_vocab().items() if index < vocab_size
    )
    return text_digest(repr(entries))


def decoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of rows of token ids as they stand: special tokens are part of them, and spaces are left alone."""
    return tokenizer.batch_decode(
        [list(row) for row in rows], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def continuations(
    tokenizer: PreTrainedTokenizerBase,
    heads: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
) -> list[str]:
    """The text that each of B rows of token ids adds to what its head reads as.

    Decoded together with the head, since many tokenizers drop the space of a first word.

    Args:
        tokenizer: of the ids.
        heads: N rows, each what comes before; row b continues head b mod N. An empty one is the beginning of a text.
        rows: B rows.
    """
    before = decoded(tokenizer, heads) if len(heads) else []
    num_heads = len(heads)
    together = decoded(tokenizer, [[*heads[b % num_heads], *row] for b, row in enumerate(rows)])
    alone = [b for b, text in enumerate(together) if not text.startswith(before[b % num_heads])]
    texts = [text[len(before[b % num_heads]) :] for b, text in enumerate(together)]
    for b, text in zip(
        alone, decoded(tokenizer, [rows[b] for b in alone]) if alone else [], strict=True
    ):
        texts[b] = text
    return texts

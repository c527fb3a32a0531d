"""Texts and token ids: tokens of a text to continue, text that a response adds, ids of an end."""

import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral

import transformers
from transformers import PreTrainedTokenizerBase

from model.common.checks import MOST
from model.common.files import text_digest
from model.common.texts import quoted


def token_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], is_chat: Sequence[bool] = ()
) -> list[list[int]]:
    """Token ids of M texts to continue: with the beginning that the tokenizer adds, not its end.

    Special tokens in a text are tokenized as such. A text that starts with the tokenizer's own
    beginning, as a chat template may, gets no second one.

    Args:
        tokenizer: tokenizer of the language model.
        texts: M texts.
        is_chat: True for each text by a chat template, which has all special tokens; default none.
    """
    settings = {"truncation": False, "padding": False}
    bare = tokenizer(list(texts), **settings, add_special_tokens=False)["input_ids"]
    if not tokenizer.num_special_tokens_to_add() or (is_chat and all(is_chat)):
        return bare
    rows = tokenizer(list(texts), **settings)["input_ids"]
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    begun = [_without_end(*pair, ends) for pair in zip(rows, bare, strict=True)]
    written = is_chat or (False,) * len(texts)
    return [own if chat else row for own, row, chat in zip(bare, begun, written, strict=True)]


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Parts of a text that the tokenizer reads as its unknown token, if it has one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    unknown = getattr(backend.model, "unk_token", None) or tokenizer.unk_token
    unknown_id = backend.token_to_id(unknown or "")
    options = {"add_special_tokens": False, "truncation": False}
    encoding = tokenizer(text, return_offsets_mapping=True, **options)
    tokens = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    parts = [text[slice(*offsets)] for token, offsets in tokens if token == unknown_id]
    return [part for part in parts if part != unknown]


def ends_within_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """True for a text that ends in a space which is a part of a token if a word follows."""
    if not text.endswith(" "):
        return False
    row, longer = (
        tokenizer(each, add_special_tokens=False, truncation=False)["input_ids"]
        for each in (text, f"{text}a")
    )
    return longer[: len(row)] != row


def _without_end(row: list[int], written: list[int], ends: set[int]) -> list[int]:
    """`row` up to the last of `written`, the tokens of the text; without added ends if no text."""
    if not written:
        while row and row[-1] in ends:
            row = row[:-1]
        return row
    # a text that starts with a beginning of its own is first found where the added one is
    places = range(len(row) - len(written) + 1)
    start = next((i for i in places if row[i : i + len(written)] == written), None)
    if start is None:
        return row
    begin = row[:start]
    return written if written[:start] == begin else begin + written


def continuation_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that continues another: without a beginning, or a space of its own.

    Tokenized behind a character, since many tokenizers write a space in front of a first word. The
    character is one that forms no token with the text, as a full stop does with ".5".
    """
    for before in (".", "\n", "a", "1"):
        start, both = (
            tokenizer(each, add_special_tokens=False)["input_ids"]
            for each in (before, before + text)
        )
        if both[: len(start)] == start and tokenizer.unk_token_id not in start:
            return both[len(start) :]
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> str:
    """Digest of the tokenizer's entries below `vocab_size`: the meaning of a token id."""
    entries = sorted(
        (index, token) for token, index in tokenizer.get_vocab().items() if index < vocab_size
    )
    return text_digest(repr(entries))


def decoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of rows of token ids, with special tokens and with all spaces."""
    if not rows:
        return []
    return tokenizer.batch_decode(
        [list(row) for row in rows], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def continuations(
    tokenizer: PreTrainedTokenizerBase,
    heads: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
) -> list[str]:
    """The text that each of B rows of token ids adds to the text of its head; row b, head b mod N.

    A row is decoded together with its head, since many tokenizers drop the space of a first word.
    If the text of both does not start with the text of the head, the row is decoded alone.
    """
    before, num_heads = decoded(tokenizer, heads), len(heads)
    texts = decoded(tokenizer, [[*heads[b % num_heads], *row] for b, row in enumerate(rows)])
    for b, text in enumerate(texts):
        start = before[b % num_heads]
        is_added = text.startswith(start)
        texts[b] = text[len(start) :] if is_added else decoded(tokenizer, [rows[b]])[0]
    return texts


def default_end_ids(
    network: "transformers.PreTrainedModel", tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[int, ...]:
    """Every id that generation settings, configuration or tokenizer name as an end.

    Warns if the first source does not list all ids, as for chat models that end a turn by
    `<|im_end|>`. Ids without a logit are left out, unless there are no others.
    """
    settings = network.generation_config
    named = {
        "generation settings": None if settings is None else settings.eos_token_id,
        "configuration": getattr(network.config.get_text_config(), "eos_token_id", None),
        "tokenizer": tokenizer.eos_token_id,
    }
    sources: dict[str, set[int]] = {}
    for name, value in named.items():
        if value is not None:
            is_listed = isinstance(value, Iterable) and not isinstance(value, str)
            ids = value if is_listed else [value]
            sources[name] = {*checked_ids(f"the end of a text by the {name}", ids)}
    every = set().union(*sources.values())
    possible = {i for i in every if i < vocab_size} or every
    if sources and possible - next(iter(sources.values())):
        listing = "; ".join(f"{name}: {sorted(ids)}" for name, ids in sources.items())
        warnings.warn(
            f"{type(network).__name__} and its tokenizer differ in the token ids that end a "
            f"response ({listing}): each of {sorted(possible)} does. Pass `end_ids` to choose",
            stacklevel=3,
        )
    return tuple(sorted(possible))


def checked_ids(name: str, ids: object, vocab_size: int = MOST) -> tuple[int, ...]:
    """Token ids in order, each once, below `vocab_size`; refuses all else by name."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} is {quoted(ids)}, expected a list of token ids")
    listed = list(ids)
    for token_id in listed:
        is_number = isinstance(token_id, Integral) and not isinstance(token_id, bool)
        if not is_number or not 0 <= token_id < vocab_size:
            raise ValueError(
                f"{name} has {quoted(token_id)}, expected a token id below {vocab_size}"
            )
    return tuple(sorted({int(token_id) for token_id in listed}))

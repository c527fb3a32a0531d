"""Prompts as token ids: texts and chats, written as texts by a template, tokenized and checked."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import transformers
from transformers import PreTrainedTokenizerBase

from model.common.checks import instance
from model.networks.checks import check_ids
from model.prior.chat import Messages, listed_prompts, options_of, text_of
from model.prior.prompts import Columns, checked_columns
from model.prior.tokenization import ends_within_token, token_rows, unknown_words


class EncodedPrompts(NamedTuple):
    """N prompts: messages of chats and None for texts, texts, names in errors, and token ids."""

    messages: tuple[Messages | None, ...]
    texts: list[str]
    places: Sequence[str]
    rows: list[list[int]]


def encoded_prompts(
    network: "transformers.PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[str | Sequence[Mapping[str, Any]]],
    system: str | None,
    places: Sequence[str],
    template_options: Mapping[str, Any],
    columns: Columns,
) -> EncodedPrompts:
    """Tokenize N prompts whose ids the network knows; see `LanguageModel.encode`."""
    if system is not None:
        instance("system", system, str)
    listed = listed_prompts(prompts, system)
    messages = tuple(None if isinstance(prompt, str) else prompt for prompt in listed)
    if template_options and not any(messages):
        names = sorted(template_options)
        raise TypeError(f"encode got {names}, options of a chat template, and no prompt is a chat")
    places = places or [f"prompt {index}" for index in range(len(listed))]
    if isinstance(places, str) or len(instance("places", places, Sequence)) != len(listed):  # type: ignore[type-abstract]
        raise ValueError(f"places is {places!r}, expected {len(listed)} names of prompts")
    values, texts = checked_columns(columns, len(listed)), []
    for n, (prompt, place) in enumerate(zip(listed, places, strict=True)):
        row = {} if messages[n] is None else {name: each[n] for name, each in values.items()}
        options = {**options_of(row, place), **template_options}
        texts.append(text_of(tokenizer, prompt, place, options))
    rows = token_rows(tokenizer, texts, [chat is not None for chat in messages])
    check_ids(rows, texts, network, tokenizer)
    return EncodedPrompts(messages, texts, places, rows)


def warn_of_unknown_words(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], places: Sequence[str]
) -> None:
    """Warn of words that the tokenizer reads as one and the same token."""
    pairs = zip(texts, places, strict=True)
    unknown = [(unknown_words(tokenizer, text), place) for text, place in pairs]
    parts = [f"{words[0]!r} of {place}" for words, place in unknown if words]
    if parts:
        fault = f"does not know words of {len(parts)} prompts, first {parts[0]}"
        reading = "and reads all such words as one token"
        warnings.warn(f"the tokenizer {fault}, {reading}", stacklevel=3)


def warn_of_open_ends(tokenizer: PreTrainedTokenizerBase, encoded: EncodedPrompts) -> None:
    """Warn of prompts that end in a space which belongs to the token of the next word.

    The end of a chat is the template's, unless the last message is the assistant's.
    """
    parts = [
        place
        for chat, text, place in zip(encoded.messages, encoded.texts, encoded.places, strict=True)
        if chat is None or chat[-1]["role"] == "assistant"
        if ends_within_token(tokenizer, text)
    ]
    if parts:
        fault = f"{len(parts)} prompts end in a space, first {parts[0]}"
        reason = "the tokenizer writes the space in front of the next word, so that responses"
        fix = "begin in the middle of a token, which the network has rarely read: leave it out"
        warnings.warn(f"{fault}: {reason} {fix}", stacklevel=3)

"""Token ids that end a response, from all that names one: generation settings, configuration, tokenizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from numbers import Integral

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def default_end_ids(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[int, ...]:
    """Every id that generation settings, configuration or tokenizer name as an end.

    A warning says where that is more than the first of them lists. Chat models are the common case: the tokenizer
    ends a turn by `<|im_end|>`, and the settings list the end of documents alone. Ids that the network has no
    logit for cannot be drawn and are left out, unless there are no others.
    """
    settings = network.generation_config
    named = {
        "generation settings": None if settings is None else settings.eos_token_id,
        "configuration": network.config.get_text_config().eos_token_id,
        "tokenizer": tokenizer.eos_token_id,
    }
    sources = {name: _listed(name, value) for name, value in named.items() if value is not None}
    every = set().union(*sources.values()) if sources else set()
    possible = {i for i in every if i < vocab_size} or every
    if sources and possible - next(iter(sources.values())):
        listing = "; ".join(f"{name}: {sorted(ids)}" for name, ids in sources.items())
        warnings.warn(
            f"{type(network).__name__} and its tokenizer differ in the token ids that end a response ({listing}): each of "
            f"{sorted(possible)} does. Pass `end_ids` to choose",
            stacklevel=3,
        )
    return tuple(sorted(possible))


def checked_ids(name: str, ids: object, vocab_size: int) -> tuple[int, ...]:
    """Token ids in order, each once.

    Raises:
        TypeError: if that is no list or other iterable of them.
        ValueError: if one is no whole number, or the network has no logit for it.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} is {ids!r}, expected a list of token ids")
    listed = list(ids)
    for token_id in listed:
        if (
            isinstance(token_id, bool)
            or not isinstance(token_id, Integral)
            or not 0 <= int(token_id) < vocab_size
        ):
            raise ValueError(
                f"{name} has {token_id!r}, expected an id below the network's {vocab_size} logits"
            )
    return tuple(sorted({int(token_id) for token_id in listed}))


def _listed(name: str, value: object) -> set[int]:
    ids = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    for token_id in (listed := list(ids)):
        if isinstance(token_id, bool) or not isinstance(token_id, Integral) or token_id < 0:
            raise ValueError(
                f"the end of a text by the {name} is {value!r}, expected a token id or a list of them"
            )
    return {int(token_id) for token_id in listed}

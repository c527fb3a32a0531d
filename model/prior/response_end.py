"""The end of a response: the token ids that end it, and the mask of the tokens before it.

The ids are named by generation settings, configuration and tokenizer. The end is found by position,
so that the padding id may be an end id or a word.
"""

import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def is_token(response: Tensor, end_ids: Tensor) -> Tensor:
    """True at the tokens of a response, its end id included; False after it. `[..., T]`."""
    ends = torch.isin(response, end_ids).int()
    return (ends.cumsum(-1) - ends) == 0


def default_end_ids(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[int, ...]:
    """Every id that generation settings, configuration or tokenizer name as an end.

    Warns if the first of them does not list all ids. Chat models are the common case: the tokenizer
    ends a turn by `<|im_end|>`, and the settings list the end of documents alone. Ids without a
    logit cannot be drawn and are left out, unless there are no others.
    """
    settings = network.generation_config
    named = {
        "generation settings": None if settings is None else settings.eos_token_id,
        "configuration": network.config.get_text_config().eos_token_id,
        "tokenizer": tokenizer.eos_token_id,
    }
    sources = {name: _listed(name, value) for name, value in named.items() if value is not None}
    every = {token_id for ids in sources.values() for token_id in ids}
    possible = {i for i in every if i < vocab_size} or every
    if sources and possible - next(iter(sources.values())):
        listing = "; ".join(f"{name}: {sorted(ids)}" for name, ids in sources.items())
        warnings.warn(
            f"{type(network).__name__} and its tokenizer differ in the token ids that end a "
            f"response ({listing}): each of {sorted(possible)} does. Pass `end_ids` to choose",
            stacklevel=3,
        )
    return tuple(sorted(possible))


def checked_ids(name: str, ids: object, vocab_size: int) -> tuple[int, ...]:
    """Token ids in order, each once, below `vocab_size`; refuses all else by name."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} is {ids!r}, expected a list of token ids")
    listed = list(ids)
    for token_id in listed:
        if not _is_id(token_id) or token_id >= vocab_size:
            raise ValueError(
                f"{name} has {token_id!r}, expected an id below the network's {vocab_size} logits"
            )
    return tuple(sorted({int(token_id) for token_id in listed}))


def _listed(name: str, value: Any) -> set[int]:
    is_list = isinstance(value, Iterable) and not isinstance(value, str)
    listed = list(value) if is_list else [value]
    if not all(map(_is_id, listed)):
        raise ValueError(
            f"the end of a text by the {name} is {value!r}, expected a token id or a list of them"
        )
    return {int(token_id) for token_id in listed}


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0

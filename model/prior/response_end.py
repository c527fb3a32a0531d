"""Token ids that end a response, by generation settings, configuration and tokenizer."""

import warnings
from collections.abc import Iterable
from numbers import Integral

import transformers
from transformers import PreTrainedTokenizerBase

from model.common.checks import MOST


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
        raise TypeError(f"{name} is {ids!r}, expected a list of token ids")
    listed = list(ids)
    for token_id in listed:
        is_number = isinstance(token_id, Integral) and not isinstance(token_id, bool)
        if not is_number or not 0 <= token_id < vocab_size:
            raise ValueError(f"{name} has {token_id!r}, expected a token id below {vocab_size}")
    return tuple(sorted({int(token_id) for token_id in listed}))

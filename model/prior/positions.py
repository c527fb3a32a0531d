"""Positions of tokens as networks count them, and the check that a network is driven as it reads by itself.

A response is sampled token by token with a cache, and scored in one pass after a prompt that is padded on the left.
The network must give the same logits either way, and those that it gives to the plain sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.prior.prompts import Prompts

if TYPE_CHECKING:
    from model.prior.language_model import LanguageModel

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Largest difference that is rounding, in standard deviations of the logits."""
HALF_PRECISION_TOLERANCE = 1.0
LENGTHS = (3, 1)
"""Tokens of the prompts that the check reads."""


class DrivenNetworkError(ValueError):
    """A network gives other logits to a padded prompt read with a cache than to the plain sequence."""


def padding_position(network: PreTrainedModel) -> int | None:
    """Position, and token id, of padding in networks such as RoBERTa: they count no token of this id, wherever it stands."""
    tables = (
        module for name, module in network.named_modules() if name.endswith("position_embeddings")
    )
    paddings = [
        table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None
    ]
    return paddings[0] if paddings else None


def first_position(network: PreTrainedModel) -> int:
    """Position of the first token: 0, or one after the padding's for networks such as RoBERTa."""
    padding = padding_position(network)
    return 0 if padding is None else padding + 1


def without_padding(positions: Tensor, skipped: Tensor, padding: int) -> Tensor:
    """Positions `[B, C]` of columns, once it is known which of the first are not counted, `[B, L]`: these are at `padding`."""
    met = skipped.long().cumsum(1)
    later = met[:, -1:].expand(-1, positions.shape[1] - skipped.shape[1])
    positions = positions - torch.cat([met, later], 1)
    positions[:, : skipped.shape[1]].masked_fill_(skipped, padding)
    return positions


def longest_context(network: PreTrainedModel) -> int | None:
    """Largest number of tokens that the network reads by one rule; None if it names no limit.

    A network whose rotary table changes with the length of what it reads (`longrope`) gives one token another
    probability when it is sampled than when the finished response is scored: its context ends before the change.
    """
    config = network.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    limits = [] if positions is None else [positions - first_position(network)]
    for rope in _rotary_settings(config):
        if rope.get("rope_type", rope.get("type")) == "longrope":
            original = getattr(config, "original_max_position_embeddings", None)
            limits.append(rope.get("original_max_position_embeddings") or original or positions)
    return min(
        (limit for limit in limits if limit is not None and limit > 0), default=None
    )  # XLNet says -1 for none


def _rotary_settings(config: Any) -> Iterator[dict[str, Any]]:
    """Settings of each kind of rotary table: one for all layers, or one by kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for settings in [rope, *rope.values()]:
        if isinstance(settings, dict):
            yield settings


@torch.no_grad()
def check_driven(language_model: LanguageModel) -> None:
    """Compare the passes of a language model with plain passes of its network, on a few tokens.

    Raises:
        DrivenNetworkError: with the size of the difference, if they disagree by more than rounding.
    """
    network, context = language_model.network, longest_context(language_model.network)
    steps = min(3, language_model.max_new_tokens - 1)
    room = max(LENGTHS) if context is None else context - language_model.max_new_tokens
    if room < 1:
        return  # no prompt is ever read
    lengths = [min(length, room) for length in LENGTHS]
    sequences = [
        row[: length + steps]
        for length, row in zip(lengths, _some_ids(language_model), strict=True)
    ]
    heads = [row[:length] for length, row in zip(lengths, sequences, strict=True)]
    rest = torch.tensor(
        [row[length:] for length, row in zip(lengths, sequences, strict=True)],
        device=network.device,
    )
    try:
        plain = [
            network(torch.tensor([row], device=network.device), use_cache=False).logits[0]
            for row in sequences
        ]
        driven = _driven(language_model, Prompts.from_ids(heads, ["", ""], network.device), rest)
    except Exception as error:
        raise DrivenNetworkError(
            f"{type(network).__name__} in {network.dtype} cannot read a padded prompt and go on with a cache: "
            f"{type(error).__name__}: {error}"
        ) from error
    expected = torch.stack(
        [logits[length - 1 :] for length, logits in zip(lengths, plain, strict=True)]
    )
    spread = expected.double().std(-1).mean().item()
    difference = (
        (driven.double().log_softmax(-1) - expected.double().log_softmax(-1)).abs().max().item()
    )
    if difference > TOLERANCE.get(network.dtype, HALF_PRECISION_TOLERANCE) * (spread + 1e-6):
        raise DrivenNetworkError(
            f"{type(network).__name__} gives a token other log-probabilities, by up to {difference:.2g} nats, when it reads a "
            "padded prompt and goes on with a cache than when it reads the plain sequence: what is sampled would not be what "
            "is scored. Expected a causal network whose positions follow `position_ids` and whose state is a key-value cache"
        )


def _driven(language_model: LanguageModel, prompts: Prompts, rest: Tensor) -> Tensor:
    """Logits after each prompt and each further token, `[N, L + 1, V]`: one token at first, then all others at once."""
    first, state = language_model.start(prompts)
    logits = [first[:, None]]
    for ids in (rest[:, :1], rest[:, 1:]):
        if ids.shape[1]:
            read, state = language_model.extend(state, ids)
            logits.append(read)
    return torch.cat(logits, 1)


def _some_ids(language_model: LanguageModel) -> list[list[int]]:
    """Two rows of ordinary tokens from all over the vocabulary, of six each; the same every time."""
    config, tokenizer = language_model.network.config.get_text_config(), language_model.tokenizer
    special = {
        *tokenizer.all_special_ids,
        *language_model.end_ids,
        language_model.pad_id,
        getattr(config, "pad_token_id", None),
    }
    ordinary = [i for i in range(language_model.vocab_size) if i not in special] or [0]
    ids = [ordinary[(7 * i + 1) * len(ordinary) // 97 % len(ordinary)] for i in range(12)]
    return [ids[:6], ids[6:]]

"""Positions of tokens as networks count them, and the longest context that a network reads."""

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor


def padding_position(network: "transformers.PreTrainedModel") -> int | None:
    """Position, and token id, of padding in networks such as RoBERTa; None for other networks.

    These networks count no token of this id, wherever the token stands.
    """
    for name, module in network.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return padding
    return None


def first_position(network: "transformers.PreTrainedModel") -> int:
    """Position of the first token: 0, or one after the padding's for networks such as RoBERTa."""
    padding = padding_position(network)
    return 0 if padding is None else padding + 1


def without_padding(positions: Tensor, skipped: Tensor, padding: int) -> Tensor:
    """Positions `[B, C]` that count no skipped token, which are themselves at position `padding`.

    Args:
        positions: `[B, C]`, counted as if no token were skipped.
        skipped: `[B, L]`, True where one of the first L tokens is skipped.
        padding: result of `padding_position`.
    """
    num_skipped = skipped.long().cumsum(1)
    later = num_skipped[:, -1:].expand(-1, positions.shape[1] - skipped.shape[1])
    positions = positions - torch.cat([num_skipped, later], 1)
    positions[:, : skipped.shape[1]].masked_fill_(skipped, padding)
    return positions


def longest_context(network: "transformers.PreTrainedModel") -> int | None:
    """Largest number of tokens that the network reads by one rule; None without a limit.

    A rotary table that changes with the length of the text (`longrope`) would give a sampled token
    another probability than a scored token. Such a context ends before the change, before Doge
    masks tokens by a choice among all tokens, and before Llama 4 scales a query by the number of
    tokens before, in which padding counts.
    """
    config = network.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    limits = [] if positions is None else [positions - first_position(network)]
    limits.append(getattr(config, "keep_window_size", None))
    if getattr(config, "attn_temperature_tuning", False):
        limits.append(config.floor_scale - 1)
    for rope in _rotary_settings(config):
        if rope.get("rope_type", rope.get("type")) == "longrope":
            original = getattr(config, "original_max_position_embeddings", None)
            limits.append(rope.get("original_max_position_embeddings") or original or positions)
    # XLNet writes -1 for no limit
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


def _rotary_settings(config: Any) -> Iterator[dict[str, Any]]:
    """Settings of each kind of rotary table: one for all layers, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for settings in [rope, *rope.values()]:
        if isinstance(settings, dict):
            yield settings

"""Networks that read texts, from checkpoints in Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from model.digests import check_digests
from model.language_model import default_device, named_dtype

NO_LIMIT = 1_000_000
"""A tokenizer that knows no limit says so by a huge one."""


def load_pretrained(
    auto: Any, name_or_path: str | Path, dtype: torch.dtype | str, device: torch.device | str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A network and its tokenizer, from a folder or from the hub.

    Args:
        auto: the class of `transformers` that loads it, such as `AutoModel`.
        name_or_path: a folder, or a name on the hub.
        dtype: of the weights in memory; a `torch.dtype` or its name.
        device: default: a GPU where there is one.
    """
    dtype = named_dtype(dtype) if isinstance(dtype, str) else dtype
    check_digests(name_or_path)
    network = auto.from_pretrained(name_or_path, dtype=dtype).to(device or default_device())
    return network, AutoTokenizer.from_pretrained(name_or_path)


def longest_read(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens of a text that network and tokenizer allow; None where neither says."""
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    limits = [tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None]
    limits.append(None if positions is None else positions - _first_position(network))
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)  # XLNet says -1 for none


def _first_position(network: PreTrainedModel) -> int:
    """0, but for networks such as RoBERTa, which count positions from the one after that of their padding."""
    tables = (module for name, module in network.named_modules() if name.endswith("position_embeddings"))
    paddings = [table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None]
    return paddings[0] + 1 if paddings else 0

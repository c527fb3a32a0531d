"""Networks that read texts, from checkpoints in Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from model.language_model import default_device, named_dtype


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
    network = auto.from_pretrained(name_or_path, dtype=dtype).to(device or default_device())
    return network, AutoTokenizer.from_pretrained(name_or_path)

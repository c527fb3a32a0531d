"""The folder of an adapter in `peft`'s format: its configuration, its tensors by the names of `peft`, the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.digests import check_digests, saved_together

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # the names that `peft` looks for


def save_adapter(folder: str | Path, config: Any, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> None:
    """Write an adapter; `config` is a configuration of `peft`."""
    with saved_together(folder) as new:
        config.save_pretrained(new)
        save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, new / WEIGHTS)
        tokenizer.save_pretrained(new)


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the adapter in a folder, none of whose files has changed since it was saved."""
    check_digests(folder)
    return json.loads((Path(folder) / CONFIG).read_text())


def adapter_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of the adapter in a folder."""
    return load_file(Path(folder) / WEIGHTS)

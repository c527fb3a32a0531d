"""The folder of an adapter in `peft`'s format: its configuration, its tensors by the names of `peft`, the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.common.digests import check_digests, saved_together
from model.networks.adapter import CONFIG, forget_base
from model.networks.source import PretrainedError, read_tensors

WEIGHTS = "adapter_model.safetensors"  # the name that `peft` looks for


def save_adapter(
    folder: str | Path, config: Any, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write an adapter. Of its base a name on the hub is written, and no path of this machine.

    Args:
        folder: to write into.
        config: a configuration of `peft`.
        weights: by the names of `peft`.
        tokenizer: of the base.
    """
    with saved_together(folder) as new:
        config.save_pretrained(new)
        forget_base(new)
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()}, new / WEIGHTS
        )
        tokenizer.save_pretrained(new)


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the adapter in a folder, none of whose files has changed since it was saved."""
    check_digests(folder)
    file = Path(folder) / CONFIG
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise PretrainedError(
            f"{file} is missing or damaged, expected settings of `peft`: {error}"
        ) from error


def adapter_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of the adapter in a folder."""
    return read_tensors(Path(folder) / WEIGHTS)

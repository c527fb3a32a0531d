"""The folder of an adapter in `peft`'s format: settings, tensors by `peft`'s names, tokenizer."""

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
    """Write a configuration of `peft`, tensors by `peft`'s names and the base's tokenizer.

    The base is named only if it is on the hub: a path of this machine is left out.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    with saved_together(folder) as new:
        config.save_pretrained(new)
        forget_base(new)
        save_file(tensors, new / WEIGHTS)
        tokenizer.save_pretrained(new)


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """Settings of the adapter in a folder whose files have not changed since they were saved."""
    check_digests(folder)
    file = Path(folder) / CONFIG
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        fault = f"{file} is missing or damaged, expected settings of `peft`: {error}"
        raise PretrainedError(fault) from error


def adapter_weights(folder: str | Path) -> dict[str, Tensor]:
    """Tensors of the adapter in a folder, by `peft`'s names."""
    return read_tensors(Path(folder) / WEIGHTS)

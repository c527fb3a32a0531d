"""Checkpoints in Hugging Face format, loaded whole or not at all.

`transformers` makes up the weights that a checkpoint lacks, drops unknown weights, and asks on
standard input before it runs code of a checkpoint. Here each of these is an error with a name.
"""

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from model.common.checks import boolean, instance
from model.common.digests import check_digests
from model.networks.adapter import Adapter, find_adapter
from model.networks.checks import check_weights
from model.networks.placement import named_device, named_dtype
from model.networks.source import PretrainedError, find_checkpoint, hub_options, refused_by_name
from model.networks.weights import load_whole


def load_network(
    auto: Any,
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
    unread: tuple[str, ...] = (),
    base: str | Path | None = None,
    **where: Any,
) -> "transformers.PreTrainedModel":
    """A network from a folder or from the hub, every weight from the checkpoint.

    Args:
        auto: class of `transformers` that loads the network, such as `AutoModel`.
        name_or_path: folder, or name on the hub; of a network, or of an adapter of `peft`.
        dtype: floating-point type of the weights in memory; None for the type on disk.
        device: device of the weights; by default a GPU if there is one.
        trust_remote_code: run modelling code that comes with the checkpoint.
        unread: beginnings of the names of weights that may be missing, since nothing reads them.
        base: network of an adapter; by default the network that the adapter names.
        where: other options of `transformers`: `revision`, `gguf_file`.

    Raises:
        PretrainedError: if the checkpoint is absent, damaged or incomplete, or comes with code.
    """
    place, dtype = named_device(device), None if dtype is None else named_dtype(dtype)
    source, options, adapter = _find(name_or_path, trust_remote_code, base, where)
    if adapter is not None:
        network = _load_adapted(auto, adapter, dtype, unread, trust_remote_code)
    elif base is None:
        network = load_whole(auto, source, dtype, unread, options)
    else:
        raise PretrainedError(f"base is {base}, which is for an adapter: {source} is none")
    check_weights(network, source)
    return network.to(place)


def load_tokenizer(
    name_or_path: str | Path,
    *,
    trust_remote_code: bool = False,
    base: str | Path | None = None,
    **where: Any,
) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or from the hub; for an adapter without one, the base's tokenizer.

    A `PretrainedError` if the tokenizer is missing, knows special tokens alone, or comes with code.
    """
    source, options, adapter = _find(name_or_path, trust_remote_code, base, where)
    if adapter is not None and not adapter.has_tokenizer:
        return load_tokenizer(adapter.base, trust_remote_code=trust_remote_code)
    with refused_by_name(source, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        if not set(tokenizer.get_vocab().values()) - special:
            fault = "has no tokens but special ones: is a file missing?"
            raise PretrainedError(f"the tokenizer of {source} {fault}")
    return tokenizer


def _find(
    name_or_path: str | Path, trust_remote_code: bool, base: str | Path | None, where: dict
) -> tuple[str, dict[str, Any], Adapter | None]:
    """Source of a checkpoint, options of `transformers`, and the adapter if it is one."""
    source = find_checkpoint(name_or_path)
    options = {"trust_remote_code": boolean("trust_remote_code", trust_remote_code)}
    options |= hub_options(source) | where
    return source, options, None if "gguf_file" in where else find_adapter(source, options, base)


def load_pretrained(
    auto: Any,
    name_or_path: str | Path,
    dtype: torch.dtype | str,
    device: torch.device | str | None,
    **options: Any,
) -> "tuple[transformers.PreTrainedModel, PreTrainedTokenizerBase]":
    """A network and its tokenizer, from files that fit their digests; see `load_network`."""
    named_device(device)
    named_dtype(dtype)
    for name in {"revision", "gguf_file"} & options.keys():
        instance(name, options[name], str)
    source = find_checkpoint(name_or_path)
    if "revision" in options and os.path.isdir(source):
        revision = options["revision"]
        raise PretrainedError(f"revision is {revision!r}, and {source} is a folder, not on the hub")
    check_digests(source)
    of_tokenizer = {name: option for name, option in options.items() if name != "unread"}
    tokenizer = load_tokenizer(name_or_path, **of_tokenizer)
    return load_network(auto, name_or_path, dtype=dtype, device=device, **options), tokenizer


def _load_adapted(
    auto: Any,
    adapter: Adapter,
    dtype: torch.dtype | None,
    unread: tuple[str, ...],
    trust_remote_code: bool,
) -> "transformers.PreTrainedModel":
    """The base of an adapter, whole except for weights of the adapter, with the adapter on it."""
    source = find_checkpoint(adapter.base)
    check_digests(source)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **hub_options(source)}
    with refused_by_name(source, "network"):
        options |= adapter.labels(auto, source, options) | adapter.base_options
    base = load_whole(auto, source, dtype, (*unread, *adapter.replaced), options)
    with refused_by_name(adapter.source, "adapter"):
        adapter.add_to(base)
    return base

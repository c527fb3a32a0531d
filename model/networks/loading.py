"""Checkpoints in Hugging Face format, loaded whole or not at all.

`transformers` makes up the weights that a checkpoint lacks, drops those that it has no place for, and asks on standard input
whether to run code that comes along. Here all of that is an error with a name. Every network and every tokenizer of the project
comes through `load_network` and `load_tokenizer`.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from model.common.checks import boolean, instance
from model.common.digests import check_digests
from model.networks.adapter import Adapter, find_adapter
from model.networks.checks import check_stored, check_weights
from model.networks.placement import named_device, named_dtype
from model.networks.positions import longest_context
from model.networks.source import PretrainedError, find_checkpoint, hub_options, refused_by_name

NO_LIMIT = 1_000_000
"""A tokenizer that knows no limit says so by a huge one."""

SHOWN = 4  # weights that an error names

_BUFFER = re.compile(r"(inv_freq|position_ids|token_type_ids|masked_bias|(attn|attention)\.bias)$")
"""Buffers that older versions of `transformers` wrote, and newer ones compute."""


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
) -> PreTrainedModel:
    """A network from a folder or from the hub, every weight of it from the checkpoint.

    Args:
        auto: the class of `transformers` that loads it, such as `AutoModel`.
        name_or_path: a folder, or a name on the hub; of a network, or of an adapter of `peft`.
        dtype: of the weights in memory; a `torch.dtype` or its name; None for that on disk.
        device: default: a GPU where there is one.
        trust_remote_code: run modelling code that comes with the checkpoint.
        unread: beginnings of the names of weights that nothing is computed from, which may be missing.
        base: of an adapter, the network that it is for; default the one that it names.
        where: other options of `transformers`: `revision`, `gguf_file`.

    Raises:
        PretrainedError: if the checkpoint is not there, is damaged, lacks weights, has weights of other shapes or more of them
            than the network, cannot be had in this dtype, or comes with code.
    """
    source, place = find_checkpoint(name_or_path), named_device(device)
    dtype = None if dtype is None else named_dtype(dtype)
    options = {
        "trust_remote_code": boolean("trust_remote_code", trust_remote_code),
        **hub_options(source),
        **where,
    }
    adapter = None if "gguf_file" in where else find_adapter(source, options, base)
    if adapter is None and base is not None:
        raise PretrainedError(
            f"base is {base}, which is for an adapter of `peft`: {source} is none, and needs no other network"
        )
    if adapter is None:
        network = _load_whole(auto, source, dtype, unread, options)
    else:
        network = _load_adapted(auto, adapter, dtype, unread, trust_remote_code)
    check_weights(network, source)
    return network.to(place)


def load_tokenizer(
    name_or_path: str | Path,
    *,
    trust_remote_code: bool = False,
    base: str | Path | None = None,
    **where: Any,
) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or from the hub; of an adapter without one, that of its base.

    Raises:
        PretrainedError: if the tokenizer is not there, knows no tokens but special ones, or comes with code.
    """
    source = find_checkpoint(name_or_path)
    options = {
        "trust_remote_code": boolean("trust_remote_code", trust_remote_code),
        **hub_options(source),
        **where,
    }
    adapter = None if "gguf_file" in where else find_adapter(source, options, base)
    if adapter is not None and not adapter.has_tokenizer:
        return load_tokenizer(adapter.base, trust_remote_code=trust_remote_code)
    with refused_by_name(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        if not set(tokenizer.get_vocab().values()) - special:
            raise PretrainedError(
                f"the tokenizer of {source} has no tokens but special ones, so that every text would be empty: are its files, "
                "such as tokenizer.json, missing?"
            )
    return tokenizer


def load_pretrained(
    auto: Any,
    name_or_path: str | Path,
    dtype: torch.dtype | str,
    device: torch.device | str | None,
    *,
    trust_remote_code: bool = False,
    unread: tuple[str, ...] = (),
    **where: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A network and its tokenizer, by `load_network` and `load_tokenizer`, from a folder whose files are as they were saved."""
    named_device(device)
    dtype = named_dtype(dtype)
    for name in ("revision", "gguf_file"):
        if name in where:
            instance(name, where[name], str)
    source = find_checkpoint(name_or_path)
    if "revision" in where and os.path.isdir(source):
        raise PretrainedError(
            f"revision is {where['revision']!r}, and {source} is a folder: only the hub has revisions"
        )
    check_digests(source)
    tokenizer = load_tokenizer(name_or_path, trust_remote_code=trust_remote_code, **where)
    network = load_network(
        auto,
        name_or_path,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        unread=unread,
        **where,
    )
    return network, tokenizer


def _load_whole(
    auto: Any,
    source: str,
    dtype: torch.dtype | None,
    unread: tuple[str, ...],
    options: dict[str, Any],
) -> PreTrainedModel:
    """A network whose weights are all in one checkpoint, but for those in `unread`."""
    with refused_by_name(source, "network"), _without_report():
        _check_kernels(auto, source, options)
        if os.path.isfile(os.path.join(source, GENERATION_CONFIG_NAME)):
            GenerationConfig.from_pretrained(
                source
            )  # else passed over if it is damaged, and the ends it names with it
        network, info = auto.from_pretrained(
            source,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    kind = type(network).__name__
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unread))
    if missing:
        raise PretrainedError(
            f"{source} lacks {len(missing)} of the weights of a {kind}, which would be made up at random: {_some(missing)}. "
            "Expected a checkpoint of a network of this kind, complete with its head"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        shapes = [
            f"{name} of shape {tuple(found)} instead of {tuple(wanted)}"
            for name, found, wanted in mismatched
        ]
        raise PretrainedError(
            f"{source} has weights of other shapes than its config.json makes of a {kind}: {_some(shapes)}"
        )
    if dropped := _dropped(network, info["unexpected_keys"]):
        raise PretrainedError(
            f"{source} has {len(dropped)} weights that a {kind} of its config.json has no place for: {_some(dropped)}. Is "
            "config.json that of another network?"
        )
    _check_dtype(network, dtype, source)
    check_stored(network, source)
    return network


def _check_kernels(auto: Any, source: str, options: dict[str, Any]) -> None:
    """Refuse a config.json that names kernels on the hub, which would be fetched and run."""
    if options["trust_remote_code"] or "gguf_file" in options:
        return
    config = (getattr(auto, "config_class", None) or AutoConfig).from_pretrained(
        source, **_of_config(options)
    )
    parts = [config, *(getattr(config, name) for name in config.sub_configs)]
    for name in ("_attn_implementation", "_experts_implementation"):
        for kernel in (str(getattr(part, name, None)) for part in parts):
            if "/" in kernel or "deepgemm" in kernel:
                raise PretrainedError(
                    f"config.json of {source} asks for the code {kernel!r} of the hub, which is not run. To run it, pass "
                    "trust_remote_code=True (--trust-remote-code on the command line)"
                )


def _of_config(options: dict[str, Any]) -> dict[str, Any]:
    """Options that a configuration is loaded with."""
    return {name: value for name, value in options.items() if name != "adapter_kwargs"}


def _load_adapted(
    auto: Any,
    adapter: Adapter,
    dtype: torch.dtype | None,
    unread: tuple[str, ...],
    trust_remote_code: bool,
) -> PreTrainedModel:
    """The base of an adapter, whole but for what the adapter brings, and the adapter on it."""
    source = find_checkpoint(adapter.base)
    check_digests(source)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **hub_options(source)}
    with refused_by_name(source, "network"):
        options |= adapter.labels(auto, source, options) | adapter.base_options
    base = _load_whole(auto, source, dtype, (*unread, *adapter.replaced), options)
    with refused_by_name(adapter.source, "adapter"):
        adapter.add_to(base)
    return base


def _dropped(network: PreTrainedModel, unexpected: set[str]) -> list[str]:
    """Weights of a checkpoint that belong to the network's body or head and were not taken; another head may be left."""
    own = {name for name, _ in network.base_model.named_children()}
    modules = {
        name.rpartition(".")[0] for name, _ in network.named_parameters(remove_duplicate=False)
    } - {""}
    body = [
        (name, name.removeprefix(f"{network.base_model_prefix}.").split(".")[0])
        for name in unexpected
    ]
    dropped = [name for name, first in body if first in own or name.rpartition(".")[0] in modules]
    return sorted(name for name in dropped if not _BUFFER.search(name))


def _check_dtype(network: PreTrainedModel, dtype: torch.dtype | None, source: str) -> None:
    """A wider type than the one asked for is kept by some networks where they need it; a narrower one is another network."""
    for name, parameter in network.named_parameters():
        narrow = (
            dtype is not None and torch.promote_types(parameter.dtype, dtype) != parameter.dtype
        )
        if not parameter.is_floating_point() or narrow:
            raise PretrainedError(
                f"{source} is quantised, or its weights cannot be had as {dtype}: {name} is {parameter.dtype}. Expected a "
                "checkpoint of floating-point weights: dequantise it first"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


@contextmanager
def _without_report() -> Iterator[None]:
    """Without the table of missing weights that `transformers` logs: what it would say is raised."""
    logger = logging.getLogger("transformers.modeling_utils")

    def no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(no_report)
    try:
        yield
    finally:
        logger.removeFilter(no_report)


def padding_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that pads on the right, where positions are those of a text alone, and cuts long texts on the left: of prompt
    and response the response is what matters. The tokenizer stays as it is, since a language model may have it too.

    Raises:
        ValueError: if there is no token to pad with.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ValueError(
            "the tokenizer has neither a padding token nor one for the end or the unknown: set its `pad_token`"
        )
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    return tokenizer


def longest_read(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens of a text that network and tokenizer allow; None where neither says."""
    limits = [
        tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None,
        longest_context(network),
    ]
    return min((limit for limit in limits if limit is not None), default=None)

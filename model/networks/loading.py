"""Checkpoints in Hugging Face format, loaded whole or not at all.

`transformers` makes up the weights that a checkpoint lacks, drops unknown weights, and asks on
standard input before it runs code of a checkpoint. Here each of these is an error with a name.
"""

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from model.common.checks import boolean, instance
from model.common.devices import give_back_freed_memory, named_device, named_dtype
from model.common.files import check_digests
from model.networks.adapter import Adapter, find_adapter
from model.networks.checks import check_stored, check_weights
from model.networks.source import (
    TRUST,
    PretrainedError,
    find_checkpoint,
    hub_options,
    refused_by_name,
)


class _Checkpoint(NamedTuple):
    """A checkpoint in its place."""

    source: str  # folder, or name on the hub
    options: dict[str, Any]  # options of `transformers`
    adapter: Adapter | None  # the adapter, if the checkpoint is one of `peft`


def load_pretrained(
    auto: Any,
    name_or_path: str | Path,
    dtype: torch.dtype | str,
    device: torch.device | str | None,
    *,
    trust_remote_code: bool = False,
    unread: tuple[str, ...] = (),
    base: str | Path | None = None,
    **where: Any,
) -> "tuple[transformers.PreTrainedModel, PreTrainedTokenizerBase]":
    """A network and its tokenizer, every weight from files that fit their digests.

    Args:
        auto: class of `transformers` that loads the network, such as `AutoModel`.
        name_or_path: folder, or name on the hub; of a network, or of an adapter of `peft`.
        dtype: floating-point type of the weights in memory.
        device: device of the weights; by default a GPU if there is one.
        trust_remote_code: run modelling code that comes with the checkpoint.
        unread: beginnings of the names of weights that may be missing, since nothing reads them.
        base: network of an adapter; by default the network that the adapter names.
        where: other options of `transformers`: `revision`, `gguf_file`.

    Raises:
        PretrainedError: if the checkpoint is absent, damaged or incomplete, or comes with code.
    """
    place, dtype = named_device(device), named_dtype(dtype)
    for name, option in where.items():
        instance(name, option, str)
    source = find_checkpoint(name_or_path)
    if "revision" in where and os.path.isdir(source):
        revision = where["revision"]
        raise PretrainedError(f"revision is {revision!r}, and {source} is a folder, not on the hub")
    check_digests(source)
    checkpoint = _find(name_or_path, trust_remote_code, base, where)
    tokenizer = _tokenizer(checkpoint)
    network = _network(auto, checkpoint, dtype, unread)
    if "gguf_file" in where:
        network = _without_quantization(network)
        give_back_freed_memory()
    return network.to(place), tokenizer


def _without_quantization(
    network: "transformers.PreTrainedModel",
) -> "transformers.PreTrainedModel":
    """The dequantized tensors of a GGUF model in a new network: the loaded one cannot be saved."""
    config = copy.deepcopy(network.config)
    config.__dict__.pop("quantization_config", None)
    fresh = type(network)(config).to(device=network.device, dtype=network.dtype)
    fresh.load_state_dict(network.state_dict())
    fresh.generation_config = network.generation_config
    return fresh


def load_network(
    auto: Any, name_or_path: str | Path, *, device: torch.device | str | None = None
) -> "transformers.PreTrainedModel":
    """A network alone, in the floating-point type on disk; see `load_pretrained`."""
    return _network(auto, _find(name_or_path), None, ()).to(named_device(device))


def _find(
    name_or_path: str | Path,
    trust_remote_code: bool = False,
    base: str | Path | None = None,
    where: Mapping[str, Any] | None = None,
) -> _Checkpoint:
    """Look a checkpoint up: one question to the hub, and one look for an adapter."""
    source, where = find_checkpoint(name_or_path), where or {}
    options = {"trust_remote_code": boolean("trust_remote_code", trust_remote_code)}
    options |= {**hub_options(source), **where}
    adapter = None if "gguf_file" in where else find_adapter(source, options, base)
    if base is not None and adapter is None:
        raise PretrainedError(f"base is {base}, which is for an adapter: {source} is none")
    return _Checkpoint(source, options, adapter)


def _tokenizer(checkpoint: _Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer; for an adapter without one, the base's tokenizer.

    A `PretrainedError` if the tokenizer is missing, knows special tokens alone, or comes with code.
    """
    source, options, adapter = checkpoint
    if adapter is not None and not adapter.has_tokenizer and adapter.base != source:
        return _tokenizer(_find(adapter.base, options["trust_remote_code"]))
    with refused_by_name(source, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        if not set(tokenizer.get_vocab().values()) - special:
            fault = "has no tokens but special ones: is a file missing?"
            raise PretrainedError(f"the tokenizer of {source} {fault}")
    return tokenizer


def _network(
    auto: Any, checkpoint: _Checkpoint, dtype: torch.dtype | None, unread: tuple[str, ...]
) -> "transformers.PreTrainedModel":
    """The network, with the adapter on it if there is one, its weights in `dtype`, all finite."""
    source, options, adapter = checkpoint
    if adapter is None:
        network = load_whole(auto, source, dtype, unread, options)
    else:
        network = _load_adapted(auto, adapter, dtype, unread, options["trust_remote_code"])
    check_weights(network, source)
    return network


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


SHOWN = 4  # number of weights that an error names

TASKS = {"SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"}
"""Ends of the names of classes of `transformers` that write no text."""

_BUFFER = re.compile(r"(inv_freq|position_ids|token_type_ids|masked_bias|(attn|attention)\.bias)$")
"""Buffers that older versions of `transformers` wrote, and newer ones compute."""


def load_whole(
    auto: Any,
    source: str,
    dtype: torch.dtype | None,
    unread: tuple[str, ...],
    options: dict[str, Any],
) -> "transformers.PreTrainedModel":
    """A network whose weights are all in one checkpoint, except those in `unread`."""
    with refused_by_name(source, "network"), _no_load_report():
        _check_config(auto, source, options)
        if os.path.isfile(os.path.join(source, GENERATION_CONFIG_NAME)):
            # `from_pretrained` would ignore a damaged file, and the end ids in it
            GenerationConfig.from_pretrained(source)
        reports = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        network, info = auto.from_pretrained(source, dtype=dtype or "auto", **reports, **options)
    kind = type(network).__name__
    if auto is not transformers.AutoModel and (other := _other_task(network)):
        raise PretrainedError(f"{source} has the weights of a {other}, expected those of a {kind}")
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith(unread)):
        raise PretrainedError(
            f"{source} lacks {len(missing)} of the weights of a {kind}, which would be random: "
            f"{_some(missing)}. Expected a checkpoint of this kind, with its head"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        shapes = [f"{name} of shape {tuple(a)} instead of {tuple(b)}" for name, a, b in mismatched]
        fault = f"other shapes than its config.json makes of a {kind}: {_some(shapes)}"
        raise PretrainedError(f"{source} has weights of {fault}")
    if dropped := _dropped(network, info["unexpected_keys"]):
        raise PretrainedError(
            f"{source} has {len(dropped)} weights that a {kind} of its config.json has no place "
            f"for: {_some(dropped)}. Is config.json that of another network?"
        )
    _check_dtype(network, dtype, source)
    check_stored(network, source)
    return network


def _check_config(auto: Any, source: str, options: dict[str, Any]) -> None:
    """Refuse a config.json that names kernels on the hub, which would be fetched and run.

    Also refuse that of an encoder and a decoder in place of a causal language model.
    """
    if options["trust_remote_code"] or "gguf_file" in options:
        return
    config_class = getattr(auto, "config_class", None) or transformers.AutoConfig
    of_config = {name: option for name, option in options.items() if name != "adapter_kwargs"}
    config = config_class.from_pretrained(source, **of_config)
    if auto is transformers.AutoModelForCausalLM and config.is_encoder_decoder:
        kind = f"a {config.model_type}, which has an encoder and a decoder"
        raise PretrainedError(f"{source} is {kind}: expected a causal language model")
    for part in [config, *(getattr(config, name) for name in config.sub_configs)]:
        for name in ("_attn_implementation", "_experts_implementation"):
            kernel = str(getattr(part, name, None))
            if "/" in kernel or "deepgemm" in kernel:
                fault = f"the code {kernel!r} of the hub, which is not run: {TRUST}"
                raise PretrainedError(f"config.json of {source} asks for {fault}")


def _other_task(network: "transformers.PreTrainedModel") -> str | None:
    """Class of the checkpoint, if it answers another question than the network, or None.

    The weights may still fit: a tied output layer, or the layers of the other head by their names.
    """
    own = type(network).__name__.rpartition("For")[2]
    tasks = {name: name.rpartition("For")[2] for name in network.config.architectures or ()}
    return next((name for name, task in tasks.items() if task in TASKS - {own}), None)


def _dropped(network: "transformers.PreTrainedModel", unexpected: set[str]) -> list[str]:
    """Weights of a checkpoint that the network has no place for, except those of another head."""
    prefix = f"{network.base_model_prefix}."
    own = {name for name, _ in network.base_model.named_children()}
    parameters = network.named_parameters(remove_duplicate=False)
    modules = {name.rpartition(".")[0] for name, _ in parameters} - {""}
    return sorted(
        name
        for name in unexpected
        if (name.removeprefix(prefix).split(".")[0] in own or name.rpartition(".")[0] in modules)
        and not _BUFFER.search(name)
    )


def _check_dtype(
    network: "transformers.PreTrainedModel", dtype: torch.dtype | None, source: str
) -> None:
    """Refuse weights of a narrower type than `dtype`. Some networks keep a wider type."""
    for name, parameter in network.named_parameters():
        wide = dtype is None or torch.promote_types(parameter.dtype, dtype) == parameter.dtype
        if not parameter.is_floating_point() or not wide:
            raise PretrainedError(
                f"{source} is quantised, or its weights cannot be had as {dtype}: {name} is "
                f"{parameter.dtype}. Expected floating-point weights: dequantise them first"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Context without the table of missing weights that `transformers` logs; an error says more."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)

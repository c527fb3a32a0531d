"""The weights of a network: all of them in one checkpoint, or an error that names the others."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from model.networks.checks import check_stored
from model.networks.source import TRUST, PretrainedError, refused_by_name

SHOWN = 4
"""Number of weights that an error names."""

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

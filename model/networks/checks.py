"""Checks of a network before use: whole, finite, causal if it writes, in evaluation mode."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from model.common.checks import instance
from model.networks.source import PretrainedError

M = TypeVar("M", bound=nn.Module)
HINT = "load one with `from_pretrained`"


def evaluating(module: M) -> M:
    """The module in evaluation mode, whoever called `module.train()`. Every pass goes through here.

    With dropout, sampled responses would not be scored by the distribution that drew them.
    """
    if any(part.training for part in module.modules()):
        module.eval()
    return module


def without_head(network: "transformers.PreTrainedModel") -> "transformers.PreTrainedModel":
    """The body of a network, which returns the last hidden states.

    An output layer would cost more than all other layers.
    """
    body = network.base_model
    if body is network and network.get_output_embeddings() is not None:
        return network.model  # the name in Llama 4
    return body


def checked_network(network: Any) -> "transformers.PreTrainedModel":
    """A network of `transformers` with its weights, taken out of `peft`'s wrapper if it is in one.

    Raises:
        TypeError: if the object is no network.
        ValueError: if the weights are missing or not finite, or the wrapper reads virtual tokens.
    """
    kind = type(network).__name__
    if any(base.__module__ == "peft.peft_model" for base in type(network).__mro__):
        if network.active_peft_config.is_prompt_learning:
            fault = f"in a {kind} with virtual tokens, which only the wrapper reads"
            expected = "the network itself, or the guide `SoftPrompt`"
            raise ValueError(f"the network is {fault}: expected {expected}")
        network = network.get_base_model()
        kind = type(network).__name__
    instance("network", network, transformers.PreTrainedModel, why=HINT)
    # `save_pretrained` reads it, and `peft` does not write it in its wrapper or as it merges
    network._hf_peft_config_loaded = bool(getattr(network, "peft_config", None))
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError(f"the weights of {kind} are on the meta device, without numbers: {HINT}")
    check_weights(network, kind)
    return network


def check_weights(network: "transformers.PreTrainedModel", where: str) -> None:
    """Refuse weights that are NaN or infinite, by a `PretrainedError`."""
    for name, parameter in network.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            place = f"the first of them {name}"
            raise PretrainedError(f"{where} has weights that are NaN or infinite, {place}")


def check_stored(network: "transformers.PreTrainedModel", source: str) -> None:
    """Refuse weights stored as whole numbers, which `transformers` would load as weights."""
    prefix = f"{network.base_model_prefix}."  # a body alone has its weights without the prefix
    parameters = {name.removeprefix(prefix) for name, _ in network.named_parameters()}
    for file in sorted(Path(source).glob("*.safetensors")) if os.path.isdir(source) else []:
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                kind = tensors.get_slice(name).get_dtype()
                if name.removeprefix(prefix) in parameters and "F" not in kind:
                    fix = "floating-point weights: if they are quantised, dequantise them first"
                    raise PretrainedError(f"{file} has {name} in the type {kind}, expected {fix}")


@torch.no_grad()
def check_causal(network: "transformers.PreTrainedModel") -> None:
    """Refuse a network, in evaluation mode, that does not write from left to right."""
    kind, loader = type(network).__name__, "as `AutoModelForCausalLM` loads it"
    if network.config.is_encoder_decoder:
        raise ValueError(f"{kind} has an encoder and a decoder, expected a decoder alone, {loader}")
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    if not isinstance(getattr(outputs, "weight", None), Tensor):  # several in Musicgen; quantised
        fault = "has not one output layer with a matrix of weights"
        raise ValueError(f"{kind} {fault}, expected a causal language model, {loader}")
    rows, logits = inputs.weight.shape[0], outputs.weight.shape[0]
    if logits > rows:
        counts = f"{logits} token ids and read {rows}"
        raise ValueError(f"{kind} can write {counts}: expected an embedding for each")
    first, other = _first_logits(network, [[0, 0], [0, min(1, rows - 1)]])
    if bool(first.isnan().any()):
        raise ValueError(f"the logits of {kind} in {network.dtype} are NaN: is that too narrow?")
    # the token that follows may move the logits of an untrained network by less than 1e-3
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 1e-3
    if not torch.allclose(first, other, rtol=tolerance, atol=tolerance * float(first.abs().max())):
        raise ValueError(
            f"the logits of {kind} after a token depend on the token that follows, expected a "
            "causal language model; is_decoder=True makes some so"
        )


def _first_logits(network: "transformers.PreTrainedModel", rows: list[list[int]]) -> list[Tensor]:
    """Logits after the first token of each row, read alone, with a mask: an id may be padding."""
    try:
        ids = [torch.tensor([row], device=network.device) for row in rows]
        outputs = [network(row, attention_mask=torch.ones_like(row)) for row in ids]
    except Exception as error:  # any error of the network's own code
        kind, reason = type(network).__name__, f"{type(error).__name__}: {error}"
        raise ValueError(f"{kind} cannot read two tokens: {reason}") from error
    return [output.logits[0, 0].float() for output in outputs]


def check_ids(
    rows: Sequence[Sequence[int]],
    texts: Sequence[object],
    network: "transformers.PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuse token ids without an embedding: tokens that were added to the tokenizer alone."""
    size = network.get_input_embeddings().weight.shape[0]
    for text, row in zip(texts, rows, strict=True):
        if row and max(row) >= size:
            token = tokenizer.convert_ids_to_tokens(max(row))
            raise ValueError(
                f"the text {str(text)[:80]!r} has the token {token!r}, id {max(row)}, and the "
                f"network has embeddings of {size} ids: `network.resize_token_embeddings`, and "
                "train it"
            )

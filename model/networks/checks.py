"""Checks of a network before anything is computed from it: whole, finite, causal where it writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.networks.source import PretrainedError

HINT = "load one with `from_pretrained`"


def check_network(network: Any, *, hint: str = HINT) -> None:
    """Refuse what is no network of `transformers`, or one without its weights.

    Raises:
        TypeError: if it is none.
        ValueError: if its weights are not there, or not finite.
    """
    if not isinstance(network, PreTrainedModel):
        raise TypeError(
            f"network is a {type(network).__name__}, expected a `PreTrainedModel` of transformers: {hint}"
        )
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError(
            f"the weights of {type(network).__name__} are on the meta device, where there are none: {hint}"
        )
    check_weights(network, type(network).__name__)


def without_head(network: PreTrainedModel) -> PreTrainedModel:
    """The body of a network, which gives the last hidden states: an output layer would cost more than all the rest."""
    body = network.base_model
    return (
        body if body is not network or network.get_output_embeddings() is None else network.model
    )  # Llama 4 names it so


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no tokenizer of `transformers`."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}, expected a tokenizer of transformers, as `AutoTokenizer` loads it"
        )


def check_weights(network: PreTrainedModel, where: str) -> None:
    """Refuse weights that are NaN or infinite."""
    for name, parameter in network.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            raise PretrainedError(
                f"{where} has weights that are NaN or infinite, the first of them {name}"
            )


def check_stored(network: PreTrainedModel, source: str) -> None:
    """Refuse weights that a folder has as whole numbers, which `transformers` would take for the weights themselves.

    Raises:
        PretrainedError: with the file and the first of them.
    """
    prefix = f"{network.base_model_prefix}."  # a body alone has its weights without it
    parameters = {name.removeprefix(prefix) for name, _ in network.named_parameters()}
    for file in sorted(Path(source).glob("*.safetensors")) if os.path.isdir(source) else []:
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                if name.removeprefix(prefix) not in parameters:
                    continue
                if "F" not in (kind := tensors.get_slice(name).get_dtype()):
                    raise PretrainedError(
                        f"{file} has {name} in the type {kind}, expected floating-point weights: if they are quantised, "
                        "dequantise them first"
                    )


@torch.no_grad()
def check_causal(network: PreTrainedModel) -> None:
    """Refuse a network that writes no text from left to right. It has to be in evaluation mode.

    Raises:
        ValueError: if the network has an encoder, has no output layer, has more output tokens than embeddings, or if the logits
            after one token are NaN or depend on the next.
    """
    kind = type(network).__name__
    if network.config.is_encoder_decoder:
        raise ValueError(
            f"{kind} has an encoder and a decoder, expected a decoder alone, as `AutoModelForCausalLM` loads it"
        )
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    if outputs is None:
        raise ValueError(
            f"{kind} has no output layer, expected a causal language model, as `AutoModelForCausalLM` loads it"
        )
    rows, logits = inputs.weight.shape[0], outputs.weight.shape[0]
    if logits > rows:
        raise ValueError(
            f"{kind} can write {logits} token ids and read {rows}: expected an embedding for each of them"
        )
    ids = torch.tensor([[0, 0], [0, min(1, rows - 1)]], device=network.device)
    try:
        # alone, so that they round alike; with a mask, since an id may be that of padding
        first, other = (
            network(row[None], attention_mask=torch.ones_like(row[None])).logits[0, 0].float()
            for row in ids
        )
    except Exception as error:  # whatever the network's own code raises
        raise ValueError(
            f"{kind} cannot read two tokens: {type(error).__name__}: {error}"
        ) from error
    if bool(first.isnan().any()):
        raise ValueError(
            f"the logits of {kind} in {network.dtype} are NaN: is the type too narrow, or the configuration another's?"
        )
    if not torch.allclose(first, other, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise ValueError(
            f"the logits of {kind} after a token depend on the token that follows: it reads in both directions. Expected a "
            "causal language model; an encoder that can be one is loaded with is_decoder=True in its configuration"
        )


def check_ids(
    rows: Sequence[Sequence[int]],
    texts: Sequence[str],
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuse token ids that the network has no embedding for: tokens added to its tokenizer alone.

    Args:
        rows: token ids of each text.
        texts: as they were written, for the error.
        network: that reads the ids.
        tokenizer: that made them.

    Raises:
        ValueError: with the text and the token.
    """
    size = network.get_input_embeddings().weight.shape[0]
    for text, row in zip(texts, rows, strict=True):
        if row and max(row) >= size:
            token = tokenizer.convert_ids_to_tokens(max(row))
            raise ValueError(
                f"the text {text[:80]!r} has the token {token!r}, id {max(row)}, and the network has embeddings of {size} "
                "ids: was the token added to the tokenizer alone? `network.resize_token_embeddings` makes room, and the new "
                "row has to be trained"
            )

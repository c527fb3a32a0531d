"""The head of a causal network: its own code from hidden states to logits.

Some networks scale or cap the logits of the output layer. The head is therefore the network's own
`forward`, around a body that returns hidden states as they are. No list of architectures is needed.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.modeling_outputs import BaseModelOutputWithPast

from model.common.devices import HALF, is_asynchronous
from model.networks.checks import without_head
from model.networks.sharded_modules import shallow_copy

ALIGNMENT = 8
"""Number of logits in 16 bytes, in half precision."""
TOLERANCE = 1e-2
"""Largest difference that is rounding, in standard deviations of the logits; 16 roundings of half
precision if that is more."""


class _States(BaseModelOutputWithPast):
    """Output of a body with hidden states alone: None for all other parts."""

    def __getattr__(self, name: str) -> None:
        return None


class _NoBody(nn.Module):
    """The body of a network that has read already: returns its input embeddings."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _States:
        return _States(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> nn.Module:
        """The body again: OPT names the part that reads."""
        return self


class _AlignedOutput(nn.Module):
    """An output layer whose number of logits is rounded up to a multiple of `ALIGNMENT`, and cut.

    A GPU multiplies matrices of half precision 2 to 8 times as fast if the rows of the product
    begin at multiples of 16 bytes. GPT-2 has 50,257 logits.
    """

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        bias, size = self.output.bias, self.output.out_features
        weight = pad(self.output.weight, (0, 0, 0, -size % ALIGNMENT))
        wide = None if bias is None else pad(bias, (0, -size % ALIGNMENT))
        return linear(x, weight, wide)[..., :size]


def is_misaligned(output: nn.Module) -> bool:
    """True for a linear layer in half precision on a GPU that `_AlignedOutput` makes faster."""
    if type(output) is not nn.Linear or type(output.weight) is not nn.Parameter:
        return False  # such as a layer with adapters, or a shard of the weights
    weight = output.weight
    return is_asynchronous(weight.device) and weight.dtype in HALF and len(weight) % ALIGNMENT > 0


def logits_of(network: "transformers.PreTrainedModel", hidden: Tensor) -> Tensor:
    """Logits `[C, V]` of inputs of the output layer `[C, H]`, scaled and capped by the network."""
    body = without_head(network)
    head = shallow_copy(network)
    head._modules = dict(network._modules)
    output = network.get_output_embeddings()
    is_packed = "forward" in vars(output)  # and aligned, once for a draw
    aligned = output if is_packed or not is_misaligned(output) else _AlignedOutput(output)
    new = {id(body): _NO_BODY, id(output): aligned}
    head._modules |= {name: new.get(id(part), part) for name, part in head._modules.items()}
    mask = torch.ones(1, len(hidden), dtype=torch.long, device=hidden.device)
    logits = head(inputs_embeds=hidden[None], attention_mask=mask, use_cache=False).logits
    return logits.squeeze(0)  # the gradient of an index is a copy among zeros


@contextmanager
def states_before_head(
    network: "transformers.PreTrainedModel", *, copies: bool = False, skip_head: bool = False
) -> Iterator[list[Tensor]]:
    """Inputs of the output layer, `[B, L, H]`, in the passes of this thread inside.

    With `skip_head` the layer reads none of them. With `copies` they are contiguous: of strided
    states torch would copy the frozen output layer once for each prompt.
    """
    hidden: list[Tensor] = []
    thread = threading.get_ident()

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != thread:
            return None  # a pass of another thread with the same network
        states = inputs[0].clone(memory_format=torch.contiguous_format) if copies else inputs[0]
        hidden.append(states)
        return (states[:, :0] if skip_head else states, *inputs[1:])

    # a hook, since some networks scale or cap the logits of the output layer
    hook = network.get_output_embeddings().register_forward_pre_hook(record)
    try:
        yield hidden
    finally:
        hook.remove()


@torch.no_grad()
def splits_head(network: "transformers.PreTrainedModel") -> bool:
    """True if `logits_of` gives the logits of the network, and if the network runs on no states."""
    ids = torch.arange(min(3, network.get_input_embeddings().weight.shape[0]))[None]
    ids = ids.to(network.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    try:
        expected = network(**batch).logits[0]
        with states_before_head(network, skip_head=True) as states:
            empty = network(**batch).logits
        logits = logits_of(network, states[0][0])
    except Exception:  # any error of the network's own code: the logits are computed whole
        return False
    if empty.shape[1] or logits.shape != expected.shape:
        return False
    difference = (logits - expected).double().abs().max()
    tolerance = max(TOLERANCE, 16 * torch.finfo(expected.dtype).eps)
    return bool(difference <= tolerance * (expected.double().std() + 1e-6))


_NO_BODY = _NoBody()

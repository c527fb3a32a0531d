"""Ceilings of a device, measured, and the least time of each phase of a step at the ceilings.

A phase takes at least the time of its arithmetic, or of the bytes that it must read.

A matrix of P weights costs 2 P operations a token forward and 2 P for the gradient of its input,
and 2 P more where the matrix trains. Attention of width H costs 4 H operations a token, layer and
position that is read. A pass reads the weights once, and a decode reads weights and cache for each
token. No pass reads the last token, which nothing follows. Logits and activations count as free: a
fused kernel would neither write nor read them.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experiments.shared.cost import Step, take_turns

SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices of the product."""
BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Size of the copied buffer, beyond every cache."""


class Ceilings(NamedTuple):
    """Rates of a device that no step exceeds.

    Attributes:
        flops: floating-point operations a second, of a product of two square matrices.
        bandwidth: bytes a second, read and written, of a copy.
    """

    flops: float
    bandwidth: float

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> Self:
        """Ceilings of a device for matrices of one type."""
        side, size = SIDE.get(device.type, 4096), BYTES.get(device.type, 2**30)
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        product = median_seconds(lambda: left @ right, device, rounds=9)
        copy = median_seconds(lambda: target.copy_(source), device, rounds=9)
        return cls(2 * side**3 / product, 2 * size / copy)


def median_seconds(function: Step, device: torch.device, rounds: int) -> float:
    """Median seconds of a function."""
    return statistics.median(seconds_of([function], device, rounds)[0])


def seconds_of(functions: Sequence[Step], device: torch.device, rounds: int) -> list[list[float]]:
    """Seconds of each function in each round, after one call to warm up, the device waited for.

    Seconds of one CPU thread are CPU seconds, which other load on the machine does not count in.
    """

    def step(function: Step) -> None:
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    steps = {str(i): partial(step, function) for i, function in enumerate(functions)}
    take_turns(steps, 1)
    by_cpu = device.type == "cpu" and torch.get_num_threads() == 1
    times = take_turns(steps, rounds).values()
    return [[cpu if by_cpu else wall for cpu, wall in each] for each in times]


@dataclass(frozen=True)
class Work:
    """Sizes of the network and of the responses, from which operations and bytes follow.

    Attributes:
        weights: number of weights in matrix products of a token, the output layer included.
        itemsize: bytes of a weight.
        cache: bytes that a position of one response keeps in the cache.
        attention: operations of attention for each position that a token reads.
        responses: number of responses.
        prompt: number of tokens of the prompt, which is read once.
        tokens: number of tokens of a response.
        trained: share of `weights` that train.
    """

    weights: int
    itemsize: int
    cache: int
    attention: int
    responses: int
    prompt: int
    tokens: int
    trained: float

    @classmethod
    def of(
        cls, network: PreTrainedModel, responses: int, prompt: int, tokens: int, trained: float
    ) -> "Work":
        """Work of a step with a network."""
        config = network.config.get_text_config()
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        itemsize, sizes = network.dtype.itemsize, (responses, prompt, tokens, trained)
        cache = 2 * layers * kv_heads * head_size * itemsize
        attention = 4 * layers * heads * head_size
        return cls(_matrix_weights(network), itemsize, cache, attention, *sizes)

    def forward_flops(self) -> int:
        """Operations of one pass over all responses but their last tokens, the prompt read once."""
        of_response = self._flops(self.tokens - 1, self.prompt)
        return self._flops(self.prompt, 0) + self.responses * of_response

    def _flops(self, tokens: int, before: int) -> int:
        """Operations of tokens that follow some positions."""
        positions = tokens * before + tokens * (tokens + 1) // 2
        return 2 * self.weights * tokens + self.attention * positions

    def decode(self, ceilings: Ceilings) -> float:
        """Seconds to draw all responses, token by token."""
        seconds = _slower(ceilings, self._flops(self.prompt, 0), self.weights * self.itemsize)
        for t in range(self.tokens - 1):
            flops = self.responses * self._flops(1, self.prompt + t)
            # the cache of the prompt is one for all responses
            cache = self.cache * (self.prompt + self.responses * t)
            seconds += _slower(ceilings, flops, self.weights * self.itemsize + cache)
        return seconds

    def score(self, ceilings: Ceilings) -> float:
        """Seconds of one pass over all responses without gradient."""
        return _slower(ceilings, self.forward_flops(), self.weights * self.itemsize)

    def score_and_gradient(self, ceilings: Ceilings) -> float:
        """Seconds of one pass forward and one back."""
        flops = self.forward_flops() * (2 + self.trained)
        return _slower(ceilings, flops, 2 * self.weights * self.itemsize)


def _slower(ceilings: Ceilings, flops: float, num_bytes: float) -> float:
    return max(flops / ceilings.flops, num_bytes / ceilings.bandwidth)


def _matrix_weights(network: nn.Module) -> int:
    """Number of weights of all matrix products, each layer counted where it is used."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | Conv1D)]
    return sum(layer.weight.numel() for layer in layers)

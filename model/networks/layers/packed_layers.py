"""Linear layers in half precision, packed for the many small products of a decode.

    [y_1 .. y_n, z] = x [W; A]^T + b,    y += z B^T

Layers that read the same x, such as those of queries, keys and values, are two products, or one
without adapters, where each layer has three. Their weights and adapters are W = [W_1; ..; W_n],
A = [A_1; ..; A_n] and B, which has alpha/rank B_i as its diagonal blocks. On a CPU [W; A] is in the
order in which the CPU reads it, where torch orders it for each product. 32 responses of 64 tokens
of a network of 135 million weights are drawn in 0.86 of the time, and 32 of 16 tokens in about the
same time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.pytorch_utils import Conv1D

from model.common.devices import HALF, is_asynchronous, is_half_on_a_cpu
from model.common.graphs import lasting, record
from model.networks.layers.head import ALIGNMENT, is_misaligned

BASES = (nn.Linear, Conv1D)
"""Types of linear layers; the weights of `Conv1D` are `[in, out]`."""
FEWEST = 32
"""Smallest number of tokens for which packed layers are faster on a CPU, packing included."""
MOST = 1 << 30
"""Largest memory of a network, bytes, that is packed: packed weights take the memory once more."""


def packs(network: "transformers.PreTrainedModel", num_tokens: int) -> bool:
    """True if `PackedLayers` makes a decode of this number of tokens faster; 0 if it is compiled.

    A GPU starts fewer kernels for any number of tokens.
    """
    if network.dtype not in HALF:
        return False
    is_faster = is_asynchronous(network.device) or (num_tokens >= FEWEST and reorders(network))
    return is_faster and sum(weight.nbytes for weight in network.parameters()) <= MOST


def reorders(weight: "Tensor | transformers.PreTrainedModel") -> bool:
    """True for weights on a CPU whose order oneDNN can change, which not all builds have."""
    if not is_half_on_a_cpu(weight) or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def weight_of(base: Any) -> Tensor:
    """The weight of a linear layer, `[out, in]`."""
    return base.weight.t() if type(base) is Conv1D else base.weight


class SharedOutputs(ABC):
    """Outputs of layers that read the same tensor, computed when the first of the layers reads it.

    Attributes:
        layers: the layers.
        x: tensor that was read last, while outputs of some layers wait; or None.
    """

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self.x: Tensor | None = None
        self._version = (False, 0)
        self._outputs: dict[nn.Module, Tensor] = {}

    @abstractmethod
    def outputs(self, x: Tensor) -> Iterable[Tensor]:
        """Output of each layer."""

    def output(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Output of a layer. An x that changed in place, or needs a gradient, is read again."""
        version = torch.is_grad_enabled(), 0 if x.is_inference() else x._version
        if self.x is not x or self._version != version or layer not in self._outputs:
            self._outputs = dict(zip(self.layers, self.outputs(x), strict=True))
            self.x, self._version = x, version
        output = self._outputs.pop(layer)
        self.x = x if self._outputs else None  # which else stays in memory
        return output


class Decoding(ABC):
    """A context whose entry writes numbers that depend on the weights, such as packed weights."""

    _graph: Any = None

    @abstractmethod
    def _write(self) -> None:
        """Write the numbers; after the first time at the same places in memory."""

    def write(self) -> None:
        """Write the numbers of the weights of the time."""
        if self._graph is None:
            with lasting():
                self._write()
        else:
            self._graph.replay()

    def record(self, device: torch.device) -> None:
        """Write from now on by the replay of a graph. The weights must not move."""
        self._graph, _ = record(self._write, device, warm_up=self._write)


class PackedLayers(Decoding):
    """Context in which the linear layers of a network are packed, for passes without gradient.

        with PackedLayers(network):
            for ids in tokens:
                logits = network(ids).logits  # the first pass shows which layers read the same x

    Weights and adapters must not change inside. Each entry packs the weights of the time, at the
    same places in memory on a GPU, where a recorded pass reads them.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._layers: list[Any] = []
        self._groups: dict[nn.Module, _Group] = {}
        self._readers = WeakTensorKeyDictionary()  # group of the layers that read a tensor

    def __enter__(self) -> Self:
        modules = list(self._network.modules())
        inner = {id(m.base_layer) for m in modules if hasattr(m, "rounded_factors")}
        for module in modules:
            is_layer = hasattr(module, "rounded_factors") or type(module) in BASES
            if is_layer and id(module) not in inner and "forward" not in vars(module):
                self._layers.append(module)
                module.forward = partial(self._forward, module)
        self.write()
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self._layers:
            del layer.forward
        self._layers = []

    def _write(self) -> None:
        for group in set(self._groups.values()):
            group.pack()

    def _forward(self, layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # with gradient it is a pass of another thread with the same network
        if torch.is_grad_enabled() or args or kwargs or not _is_plain(layer, x):
            return type(layer).forward(layer, x, *args, **kwargs)
        group = self._groups.get(layer)
        if group is not None and group.gains:
            return group.output(layer, x)
        if group is None:
            if (group := self._readers.get(x)) is None or group.packed:
                group = self._readers[x] = _Group([])
            group.layers.append(layer)
            self._groups[layer] = group
        return type(layer).forward(layer, x)


def _is_plain(layer: Any, x: Tensor) -> bool:
    """True if the layer is a product with weights in half precision, and with adapters if any."""
    if hasattr(layer, "rounded_factors"):
        return layer.is_plain(x)
    weight = layer.weight
    return type(weight) is nn.Parameter and weight.dtype == x.dtype and x.dtype in HALF


class _Group(SharedOutputs):
    """Layers that read the same tensor in a pass of a draw.

    Attributes:
        packed: the weights, packed by the second pass.
    """

    packed: "_Packed | None" = None

    @property
    def gains(self) -> bool:
        """False for one aligned layer without adapters in torch's order, as on a GPU."""
        first = self.layers[0]
        is_many = len(self.layers) > 1 or _has_adapters(first)
        return is_many or is_misaligned(first) or reorders(first.weight)

    def pack(self) -> None:
        """Pack the weights of the time, after a first pass."""
        if self.packed is not None:
            self.packed.fill()

    def outputs(self, x: Tensor) -> Iterable[Tensor]:
        """See `SharedOutputs`."""
        if self.packed is None:
            with lasting():
                self.packed = _Packed(self.layers, x.numel() // x.shape[-1])
        return self.packed.outputs(x)


class _Packed:
    """Weights of layers that read the same x, and their adapters.

    Args:
        layers: the layers.
        num_rows: number of rows of x for which a CPU orders the weights.
    """

    def __init__(self, layers: Sequence[Any], num_rows: int) -> None:
        self._layers, self._num_rows = layers, num_rows
        self._bases = [getattr(layer, "base_layer", layer) for layer in layers]
        self._sizes = [len(weight_of(base)) for base in self._bases]
        self._weight: Tensor | None = None  # [W; A], `[out + rank, in]`
        self._ordered: Tensor | None = None  # the same in the order of oneDNN
        self._bias: Tensor | None = None  # b, and 0 for the adapters
        self._b: Tensor | None = None  # B, `[out, rank]`
        self.fill()

    def fill(self) -> None:
        """Pack the weights and adapters of the time."""
        factors = [each.rounded_factors() for each in self._layers if _has_adapters(each)]
        size, like = sum(self._sizes), self._bases[0].weight
        rank = sum(len(a) for a, _ in factors)
        if factors or is_asynchronous(like.device):
            rank += -(size + rank) % ALIGNMENT  # rows of a product begin at multiples of 16 bytes
        if self._weight is None:
            self._weight = like.new_zeros(size + rank, weight_of(self._bases[0]).shape[1])
            self._b = like.new_zeros(size, rank) if factors else None
            if any(base.bias is not None for base in self._bases):
                self._bias = like.new_zeros(size + rank)
        row, column, remaining = 0, 0, iter(factors)
        for layer, base, num in zip(self._layers, self._bases, self._sizes, strict=True):
            rows = slice(row, row + num)
            self._weight[rows] = weight_of(base)
            if self._bias is not None and base.bias is not None:
                self._bias[rows] = base.bias
            if self._b is not None and _has_adapters(layer):
                a, b = next(remaining)
                columns = slice(column, column + len(a))
                self._weight[size:][columns], self._b[rows, columns] = a, b
                column += len(a)
            row += num
        if reorders(self._weight):
            self._ordered = torch.ops.mkldnn._reorder_linear_weight(self._weight, self._num_rows)
            self._weight = None

    def parts(self) -> list[Tensor]:
        """The tensors that `outputs` reads."""
        parts = (self._weight, self._ordered, self._bias, self._b)
        return [part for part in parts if part is not None]

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the layers, views of one tensor."""
        flat, size = x.reshape(-1, x.shape[-1]), sum(self._sizes)
        if self._ordered is None:
            assert self._weight is not None
            y = linear(flat, self._weight, self._bias)
        else:
            y = torch.ops.mkldnn._linear_pointwise(flat, self._ordered, self._bias, "none", [], "")
        if self._b is not None:
            y[:, :size].addmm_(y[:, size:], self._b.t())
        return y[:, :size].view(*x.shape[:-1], -1).split(self._sizes, -1)


def _has_adapters(layer: Any) -> bool:
    return hasattr(layer, "rounded_factors")

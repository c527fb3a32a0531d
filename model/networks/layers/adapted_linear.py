"""Linear layers with adapters of `peft`, on weights in half precision.

    y = x W^T + (x A^T) (alpha/rank B)^T

`peft` computes the second term in float32, by six passes over float32 copies of x and y, and keeps
a copy of x for the gradient of each layer. Here the product is added to x W^T in place, A and B are
rounded to the type of W, and the gradient needs x alone. The parameters stay float32. The rounding
is less than that of y, to which the product is added.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from model.common.devices import HALF, is_asynchronous
from model.networks.layers.packed_gradients import note_input
from model.networks.layers.packed_layers import BASES, weight_of
from model.networks.layers.rounded_adapters import shared_factors, shared_group, stacked


class AdaptedLinear(Linear):
    """A layer of `peft` with its adapters, as computed by `peft` but for the rounding.

        add_adapter(network, config)
        faster_adapters(network)  # all layers of the network

    Attributes:
        rounded: factors of the adapters in half precision, for many passes with the same
            parameters; None to round them in each pass.
    """

    rounded: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.is_plain(x):
            return super().forward(x, *args, **kwargs)
        base = self.base_layer
        if (group := shared_group(self)) is not None:
            return group.output(self, x)
        if (shared := shared_factors(self)) is not None:
            note_input(self, x)
        if shared or torch.is_grad_enabled():
            return _Adapted.apply(x, weight_of(base), base.bias, *(shared or self._factors()))
        y = base(x)
        factors = self.rounded or self.rounded_factors()
        assert factors is not None  # W is in half precision
        a, b = factors
        flat = x.reshape(-1, x.shape[-1])
        y.view(-1, y.shape[-1]).addmm_(flat @ a.t(), b.t())
        return y

    def is_plain(self, x: Tensor) -> bool:
        """True if the layer adds low-rank products to a frozen product in half precision."""
        base = self.base_layer
        if type(base) not in BASES or type(base.weight) is not nn.Parameter:
            return False  # such as a shard of the weights
        if x.dtype not in HALF or base.weight.dtype != x.dtype or base.weight.requires_grad:
            return False
        if self.training or self.merged or self.disable_adapters or self.lora_variant:
            return False
        active = self._active()
        return bool(active) and all(self.lora_B[name].bias is None for name in active)

    def _active(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.lora_A]

    def parts(self) -> list[tuple[Tensor, Tensor, float]]:
        """A, B and alpha/rank of each active adapter."""
        a, b = ({name: part[name].weight for name in part} for part in (self.lora_A, self.lora_B))
        return [(a[name], b[name], self.scaling[name]) for name in self._active()]

    def _factors(self) -> tuple[Tensor, Tensor]:
        """A of all active adapters, `[rank, in]`, and alpha/rank B, `[out, rank]`."""
        return stacked([(a, b * scale) for a, b, scale in self.parts()])

    @torch.no_grad()
    def rounded_factors(
        self, out: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """The factors in the type of W, without gradient; None if that is no half precision.

        Args:
            out: factors of an earlier call, which are overwritten.
        """
        dtype = self.base_layer.weight.dtype
        if dtype not in HALF or not self._active():
            return None
        factors = self._factors()
        if out is None:
            return factors[0].to(dtype), factors[1].to(dtype)
        for own, new in zip(out, factors, strict=True):
            own.copy_(new)
        return out


class _Adapted(torch.autograd.Function):
    """`AdaptedLinear` with gradients of x, A and B, which keeps x, x A^T and the parameters."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        a_half, b_half = a.to(x.dtype), b.to(x.dtype)
        inner = flat @ a_half.t()
        y = linear(flat, weight, bias).addmm_(inner, b_half.t())
        ctx.save_for_backward(flat, inner, weight, a_half, b_half)
        ctx.wide = a.dtype, b.dtype
        # no view for autograd, since Gemma 3n multiplies it in place
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, weight, a, b = ctx.saved_tensors
        shape = (*grad.shape[:-1], weight.shape[1])
        grad = grad.reshape(-1, grad.shape[-1])
        grad_inner = grad @ b
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_inner, a).view(shape)
        grad_a = grad_inner.t() @ flat
        # in the order of the parameter, or autograd copies the gradient once more
        grad_b = grad.t() @ inner if is_asynchronous(grad.device) else (inner.t() @ grad).t()
        if grad_b.dtype != ctx.wide[1]:
            grad_b = grad_b.to(ctx.wide[1], memory_format=torch.contiguous_format)
        return grad_x, None, None, grad_a.to(ctx.wide[0]), grad_b


def faster_adapters(network: nn.Module) -> None:
    """Make the layers of `peft` in a network `AdaptedLinear`, in place."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = AdaptedLinear

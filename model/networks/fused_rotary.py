"""Rotary positions in three kernels, where `transformers` runs five; backward in three as well.

    y = x cos + (-x_2, x_1) sin,   x = (x_1, x_2) in halves of its last dimension

Su et al. 2021 (arXiv 2104.09864). In half precision, where the sum is rounded once less. The
attention of a network keeps its own code, in which the name `apply_rotary_pos_emb` stands for the
function here.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from model.networks.placement import HALF

NAME = "apply_rotary_pos_emb"
"""Name of the function in the modules of `transformers`."""
ARGUMENTS = ["q", "k", "cos", "sin", "unsqueeze_dim"]
"""Arguments of the function."""


def fused_rotary(network: nn.Module) -> None:
    """Replace the rotary function in all attention layers of a network that call the usual one."""
    for module in network.modules():
        kind: Any = type(module)
        if (fused := _fused_kind(kind)) is not None:
            module.__class__ = fused


@cache
def _fused_kind(kind: Any) -> Any:
    """A subclass whose `forward` has the same code, and rotates by `_rotated`; None for others."""
    forward = kind.__dict__.get("forward")
    if not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names:
        return None
    own: Any = forward.__globals__.get(NAME)
    if not _is_usual(own):
        return None
    names = {**forward.__globals__, NAME: partial(_both_rotated, own)}
    del names["__name__"]  # by which `torch.compile` would look for the names in the module
    code, closure = forward.__code__, forward.__closure__
    new = FunctionType(code, names, "forward", forward.__defaults__, closure)
    new.__kwdefaults__ = forward.__kwdefaults__
    return type(kind.__name__, (kind,), {"forward": new})


def _is_usual(own: Any) -> bool:
    """True for a function that rotates queries and keys by halves, tried on random numbers."""
    if own is None or list(inspect.signature(own).parameters) != ARGUMENTS:
        return False
    generator = torch.Generator().manual_seed(0)
    q, k, cos, sin = (
        torch.randn(size, generator=generator)
        for size in ((2, 3, 4, 6), (2, 1, 4, 6), (2, 4, 6), (2, 4, 6))
    )
    try:
        expected = own(q, k, cos, sin)
    except Exception:  # any error of the network's own code: the function stays
        return False
    got = (_rotated(x, cos[:, None], sin[:, None]) for x in (q, k))
    return all(torch.allclose(*pair, atol=1e-5) for pair in zip(got, expected, strict=True))


def _both_rotated(
    own: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[Tensor, Tensor]:
    """Queries and keys, rotated; by the network's own function in float32, or if a part turns."""
    if q.dtype not in HALF or cos.dtype != q.dtype or cos.shape[-1] != q.shape[-1]:
        return own(q, k, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotated = _Rotated.apply if torch.is_grad_enabled() else _rotated
    return rotated(q, cos, sin), rotated(k, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float = 1.0) -> Tensor:
    """x turned by the angles; with the sign -1 the sine's part is transposed, as in a gradient."""
    half = x.shape[-1] // 2
    first, second = slice(None, half), slice(half, None)
    by_first, by_second = (first, second) if sign > 0 else (second, first)
    y = x * cos
    y[..., first].addcmul_(x[..., second], sin[..., by_first], value=-sign)
    y[..., second].addcmul_(x[..., first], sin[..., by_second], value=sign)
    return y


class _Rotated(torch.autograd.Function):
    """`_rotated` with a gradient of x, which needs the angles alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, sign=-1.0), None, None

"""Gradient of attention in half precision on a CPU, by products of matrices.

    P = softmax(Q K^T / sqrt(D) + mask),   dV = P^T dO,   dS = P (dO V^T - rowsum(P dO V^T))

The gradient of torch's fused kernel takes 4 times as long for 32 sequences of 64 tokens, 10 times
as long for 16 tokens, and about as long for 256 tokens. The forward pass is torch's, and its inputs
alone are kept.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from model.common.devices import is_half_on_a_cpu

SCORES = 1 << 18
"""Number of scores that are computed at a time: 1 MiB in float32, which the cache holds."""
MOST = 1 << 15
"""Largest number of scores of a head for which the gradient differs from torch's."""

LOWEST = -1e30
"""Number that is added to the scores of masked keys."""


class FasterAttention(TorchFunctionMode):
    """Context in which attention on a CPU has the gradient of `_Attention`, in the own thread.

    with FasterAttention():
        logits = network(ids).logits
    logits.sum().backward()
    """

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is scaled_dot_product_attention and _is_faster(*args, **kwargs):
            named = (kwargs.get(name) for name in ("attn_mask", "is_causal", "scale"))
            return _Attention.apply(*args, *named)
        return function(*args, **kwargs)


def faster_attention(network: "transformers.PreTrainedModel") -> AbstractContextManager[Any]:
    """Context for a pass of a network with gradient: `FasterAttention` if the network gains."""
    gains = torch.is_grad_enabled() and is_half_on_a_cpu(network)
    return FasterAttention() if gains else nullcontext()


def _is_faster(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """True for attention of as many keys as queries have heads, with a gradient, on a CPU."""
    parts = (query, key, value)
    plain = is_half_on_a_cpu(query) and not (dropout_p or enable_gqa)
    plain = plain and query.dim() == 4 and query.shape[:2] == key.shape[:2]
    plain = plain and query.shape[2] * key.shape[2] <= MOST
    has_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    return plain and has_gradient and not (attn_mask is not None and attn_mask.requires_grad)


class _Attention(torch.autograd.Function):
    """`scaled_dot_product_attention` of `[B, heads, L, D]`, once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool | None,
        scale: float | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.is_causal, ctx.scale = bool(is_causal), scale
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": ctx.is_causal, "scale": scale}
        return scaled_dot_product_attention(query, key, value, **options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *parts, mask = ctx.saved_tensors
        query, key, _ = parts = [part.contiguous() for part in parts]
        grads = [torch.empty_like(part) for part in parts]
        batch, heads, length, width = query.shape
        scale = width**-0.5 if ctx.scale is None else ctx.scale
        shape = (batch, heads, length, key.shape[2])
        if ctx.is_causal:
            mask = torch.ones(shape[2:], dtype=torch.bool).tril()
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros(mask.shape).masked_fill_(~mask, LOWEST)
            mask = mask.float().clamp(min=LOWEST)
            # the output of a query without keys is 0
            grad = grad.masked_fill((mask == LOWEST).all(-1, keepdim=True), 0.0)
            mask = mask.broadcast_to(shape)
        grad = grad.contiguous()
        size = max(1, SCORES // math.prod(shape[1:]))
        for rows in (slice(start, start + size) for start in range(0, batch, size)):
            own = [part[rows].flatten(0, 1) for part in (*parts, grad, *grads)]
            _write_gradients(own, None if mask is None else mask[rows], scale)
        return *grads, None, None, None


def _write_gradients(parts: list[Tensor], mask: Tensor | None, scale: float) -> None:
    """Write the gradients of query, key and value.

    Args:
        parts: query, key, value, gradient of the output, and places of the gradients of query, key
            and value, `[B * heads, L, D]` each.
        mask: numbers that are added to the scores, `[B, heads, L, S]`.
        scale: factor of the scores.
    """
    query, key, value, grad, grad_query, grad_key, grad_value = parts
    scores = torch.bmm(query, key.mT).float().mul_(scale)
    if mask is not None:
        scores.view(mask.shape).add_(mask)
    prob = scores.softmax(-1)
    torch.bmm(prob.to(query.dtype).mT, grad, out=grad_value)
    slope = torch.bmm(grad, value.mT).float().mul_(prob)
    slope = slope.sub_(prob.mul_(slope.sum(-1, keepdim=True))).mul_(scale).to(query.dtype)
    torch.bmm(slope, key, out=grad_query)
    torch.bmm(slope.mT, query, out=grad_key)

"""Logits of the next token: draw a token, or score a token."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 22
"""Number of logits widened at a time: 16 MiB in float32."""


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature, in float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1.0 else wide / temperature


def sample_token(logits: Tensor, temperature: float) -> Tensor:
    """One token id for each row of logits, `[B, V]` -> `[B]`, from softmax(logits / temperature).

    By inversion of the distribution function, with one uniform number a row where
    `torch.multinomial` draws V. The sum is in float64, so that rare tokens keep their probability.
    """
    cdf = scaled(logits, temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    if bool(total.isnan().any()):
        raise FloatingPointError(
            "the network's logits are NaN: its weights are, or its half-precision type overflows "
            "(try float32), or its attention reads padding"
        )
    threshold = torch.rand(len(cdf), 1, dtype=cdf.dtype, device=cdf.device).mul_(total)
    return torch.searchsorted(cdf, threshold, right=True).squeeze(1).clamp_(max=cdf.shape[-1] - 1)


def token_log_prob(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[ids], nats, `[..., V]` and `[...]` -> `[...]`.

    Once differentiable. In float32 or wider: a sum of log-probabilities in bfloat16 is worthless.
    """
    return _TokenLogProb.apply(logits, ids, temperature)


class _TokenLogProb(torch.autograd.Function):
    """`token_log_prob` with one other tensor `[..., V]`, the gradient, where autograd has three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        flat, flat_ids = logits.reshape(-1, logits.shape[-1]), ids.reshape(-1, 1)
        log_prob = [
            scaled(flat[rows], temperature).log_softmax(-1).gather(-1, flat_ids[rows])
            for rows in _chunks(flat)
        ]
        ctx.save_for_backward(flat, flat_ids)
        ctx.temperature, ctx.shape = temperature, logits.shape
        return torch.cat(log_prob).view(ids.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        flat, flat_ids = ctx.saved_tensors
        scale = grad.reshape(-1, 1) / ctx.temperature
        grad_logits = torch.empty_like(flat)
        for rows in _chunks(flat):
            grad_rows = scaled(flat[rows], ctx.temperature).softmax(-1).mul_(-scale[rows])
            grad_rows.scatter_add_(-1, flat_ids[rows], scale[rows])
            grad_logits[rows] = grad_rows.to(flat.dtype)
        return grad_logits.view(ctx.shape), None, None


def _chunks(flat: Tensor) -> list[slice]:
    size = max(1, CHUNK // flat.shape[-1])
    return [slice(start, start + size) for start in range(0, len(flat), size)]

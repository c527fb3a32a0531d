"""Logits of the next token: draw a token, or score a token."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.common.devices import total_memory
from model.prior.recomputation import Grads, add_gradients, deferred, leaves_of

CHUNK = 1 << 22
"""Number of logits at a time, 16 MiB in float32: computed from hidden states, or widened."""
GIB = 1 << 30  # memory of a GPU, bytes, for each chunk that it computes at once
BLOCK = 256  # number of tokens of a block, in which a token of a large vocabulary is drawn
NAN_LOGITS = (
    "the network's logits are NaN: its weights are, or its half-precision type overflows "
    "(try float32), or its attention reads padding"
)


class NaNLogitsError(FloatingPointError):
    """The logits of a token are NaN, and no token can be drawn."""


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature, in float32 or wider."""
    wide = logits.to(_wide(logits))
    return wide if temperature == 1.0 else wide / temperature


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature), in float32 or wider."""
    # with `dtype` the logits are widened as they are read, and not copied
    return _unwidened(logits, temperature).log_softmax(-1, dtype=_wide(logits))


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature), in float32 or wider."""
    return _unwidened(logits, temperature).softmax(-1, dtype=_wide(logits))


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _unwidened(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else scaled(logits, temperature)


def sample_token(logits: Tensor, temperature: float, uniform: Tensor | None = None) -> Tensor:
    """One token id for each row of logits, `[B, V]` -> `[B]`, as by `draw_token`.

    A `NaNLogitsError` if the logits are NaN.
    """
    if uniform is None:
        uniform = uniform_numbers(len(logits), logits.device)
    token, log_prob = draw_token(logits, temperature, uniform)
    if bool(log_prob.isnan().any()):
        raise NaNLogitsError(NAN_LOGITS)
    return token


def draw_token(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token for each row of logits, `[B, V]`, from softmax(logits / temperature).

    By inversion of the distribution function, with one uniform number a row where
    `torch.multinomial` draws V. The sum is in float64, so that rare tokens keep their probability.

    Args:
        uniform: `[B]`, see `uniform_numbers`.

    Returns:
        Token ids and their log-probabilities, nats, `[B]`. The log-probability is NaN if the
        logits of the row are.
    """
    prob = softmax(logits, temperature)
    token = _inverted(prob, uniform[:, None])
    return token.squeeze(1), prob.gather(-1, token).squeeze(1).log()


def _inverted(prob: Tensor, uniform: Tensor) -> Tensor:
    """Token ids `[B, 1]` whose piece of [0, 1) contains the uniform numbers, from `[B, V]`.

    A running sum over a large vocabulary is slow, most of all on a GPU. Sums of blocks of tokens
    choose a block, and a running sum within the block chooses the token.
    """
    size = prob.shape[-1]
    if size <= 8 * BLOCK:
        cdf = prob.cumsum(-1, dtype=torch.float64)
        return _first_above(cdf, uniform * cdf[:, -1:])
    whole = size - size % BLOCK
    sums = [prob[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1, dtype=torch.float64)]
    if whole < size:
        sums.append(prob[:, whole:].sum(-1, keepdim=True, dtype=torch.float64))
    cdf = (torch.cat(sums, 1) if len(sums) > 1 else sums[0]).cumsum(-1)
    height = uniform * cdf[:, -1:]
    block = _first_above(cdf, height)
    first = block * BLOCK
    ids = first + torch.arange(BLOCK, device=block.device)
    within = prob.gather(1, ids.clamp_(max=size - 1))  # places behind the last token are the last
    height = (height - pad(cdf, (1, 0)).gather(-1, block)).clamp_(min=0.0)
    token = first + _first_above(within.cumsum(-1, dtype=torch.float64), height)
    return token.clamp_(max=size - 1)  # all probabilities may be NaN


def _first_above(cdf: Tensor, height: Tensor) -> Tensor:
    """First place of the rising numbers `[B, C]` above a height `[B, 1]`, or above all others.

    The place always has a positive probability, unless all are NaN.
    """
    below_total = torch.nextafter(cdf[:, -1:], torch.zeros_like(height))
    place = torch.searchsorted(cdf, torch.minimum(height, below_total), right=True)
    return place.clamp_(max=cdf.shape[-1] - 1)


def uniform_numbers(number: int, device: torch.device) -> Tensor:
    """Random numbers between 0 and 1 for `number` tokens, `[B]`, float64."""
    return torch.rand(number, dtype=torch.float64, device=device)


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
            log_softmax(flat[rows], temperature).gather(-1, flat_ids[rows])
            for rows in _chunks(flat, flat.shape[-1])
        ]
        ctx.save_for_backward(flat, flat_ids)
        ctx.temperature, ctx.shape = temperature, logits.shape
        return torch.cat(log_prob).view(ids.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        flat, flat_ids = ctx.saved_tensors
        slope = grad.reshape(-1, 1) / -ctx.temperature
        grad_logits = torch.empty_like(flat)
        for rows in _chunks(flat, flat.shape[-1]):
            prob = softmax(flat[rows], ctx.temperature)
            prob.scatter_(-1, flat_ids[rows], -1.0, reduce="add")
            torch.mul(prob, slope[rows], out=grad_logits[rows])  # rounded as it is written
        return grad_logits.view(ctx.shape), None, None


def of_states(
    function: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, ids: Tensor, size: int
) -> Tensor:
    """A function of hidden states and token ids, through logits that are computed chunk by chunk.

    The logits are not kept for the gradient. While the function's own parameters do not train, the
    gradient with respect to a hidden state is the incoming gradient times a vector that the forward
    pass already computes. Otherwise the backward pass computes the logits again.

    Args:
        function: states `[C, H]` and ids `[C]` -> `[C]`, each state by itself.
        hidden: `[..., H]`, hidden states.
        ids: `[...]`, token ids.
        size: V, number of logits of a state.

    Returns:
        `[...]`. Once differentiable.
    """
    flat, flat_ids = hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1)
    chunks = _chunks(flat, size)
    if not torch.is_grad_enabled() or len(chunks) == 1:
        return torch.cat([function(flat[c], flat_ids[c]) for c in chunks]).view(ids.shape)
    leaves = leaves_of([function(flat[:0].detach(), flat_ids[:0])])
    if flat.requires_grad and not leaves:
        return _OfStates.apply(flat, flat_ids, function, size).view(ids.shape)
    with torch.no_grad():
        values = torch.cat([function(flat[c], flat_ids[c]) for c in chunks])
    if not leaves:
        return values.view(ids.shape)

    def gradient(grads: Grads) -> Grads:
        total: list[Tensor | None] = [None] * len(leaves)
        slopes = torch.zeros_like(flat)
        (grad,) = grads
        if grad is None:
            return [*total, None]
        for c in chunks:
            states = flat[c].detach().requires_grad_()
            own = [*total, None]
            add_gradients(own, [*leaves, states], [function(states, flat_ids[c])], [grad[c]])
            *total, slope = own
            slopes[c] = 0.0 if slope is None else slope
        return [*total, slopes]

    return deferred([values], [*leaves, flat], gradient)[0].view(ids.shape)


class _OfStates(torch.autograd.Function):
    """`of_states` with the derivative by the state, `[C, H]`, from the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        ids: Tensor,
        function: Callable[[Tensor, Tensor], Tensor],
        size: int,
    ) -> Tensor:
        slopes, values = torch.empty_like(hidden), []
        for rows in _chunks(hidden, size):
            with torch.enable_grad():
                states = hidden[rows].detach().requires_grad_()
                value = function(states, ids[rows])
                (slopes[rows],) = torch.autograd.grad(value.sum(), states)
            values.append(value.detach())
        ctx.save_for_backward(slopes)
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grad[:, None] * slopes).to(slopes.dtype), None, None, None


def _chunks(flat: Tensor, size: int) -> list[slice]:
    # a GPU is idle between small products, and has the memory for larger products
    length = max(1, CHUNK * max(1, total_memory(flat.device) // GIB) // size)
    return [slice(start, start + length) for start in range(0, max(1, len(flat)), length)]

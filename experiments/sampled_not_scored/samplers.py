"""Samplers made of a guide, token by token."""

from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[Tensor], Tensor]
"""Function of log q of the next token, `[S, T, V]`, that returns log a."""
AS_SCORED = "as scored"


def at_temperature(temperature: float) -> Sampler:
    """Draw from q^(1/temperature)."""
    return lambda log_q: (log_q / temperature).log_softmax(-1)


def top_k(k: int) -> Sampler:
    """Draw from the k likeliest tokens."""

    def sampler(log_q: Tensor) -> Tensor:
        least = log_q.topk(k, -1).values[..., -1:].detach()
        return log_q.masked_fill(log_q < least, -torch.inf).log_softmax(-1)

    return sampler


def top_p(p: float) -> Sampler:
    """Draw from the likeliest tokens that together have probability p, the last one included."""

    def sampler(log_q: Tensor) -> Tensor:
        ordered, order = log_q.detach().sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        is_out = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)
        return log_q.masked_fill(is_out, -torch.inf).log_softmax(-1)

    return sampler


SAMPLERS: dict[str, Sampler] = {
    AS_SCORED: at_temperature(1.0),
    "temperature 0.7": at_temperature(0.7),
    "temperature 1.5": at_temperature(1.5),
    "top-k of 3": top_k(3),
    "top-p of 0.9": top_p(0.9),
}
"""Samplers by name."""

"""Draws of the guide in one step of an objective, by site and as matrices."""

from typing import NamedTuple

import torch
from torch import Tensor

from model import Prompts


class Draws(NamedTuple):
    """Values that the guide drew in one step, and their log q before the step.

    Attributes:
        values: By site.
        log_guide: By site, nats, `[K, N]` for responses.
        log_weight: log of the target over q, in the shape of `log_guide`, nats.
        every: True if the values are all possible values, so that a mean has the weights q.
        share: Weight of each value in a mean under q, in the shape of `log_guide`; None for equal
            weights.
    """

    prompts: Prompts
    values: dict[str, Tensor]
    log_guide: dict[str, Tensor]
    log_weight: Tensor
    every: bool = False
    share: Tensor | None = None


class DrawMatrices(NamedTuple):
    """All draws of one step, `[K, N]`, float64."""

    log_weight: Tensor  # log-weight of each draw, nats
    log_guide: Tensor  # log q of each draw, nats
    share: Tensor  # share of each draw in a mean under q
    every: bool  # True if the draws are all values, which Pyro enumerated


def matrices(draws: list[Draws]) -> DrawMatrices:
    """All draws of one step as matrices."""
    log_weights, log_guides = [], []
    for batch in draws:
        log_weight = batch.log_weight.double()
        log_guide = total(batch.log_guide).broadcast_to(log_weight.shape)
        log_weights.append(torch.atleast_2d(log_weight).flatten(1))
        log_guides.append(torch.atleast_2d(log_guide).flatten(1))
    log_weight, log_guide, share = torch.cat(log_weights), torch.cat(log_guides), draws[0].share
    if draws[0].every:
        share = log_guide.exp()
    elif share is None:
        share = torch.full_like(log_weight, 1 / len(log_weight))
    return DrawMatrices(log_weight, log_guide, share.double(), draws[0].every)


def total(log_guide: dict[str, Tensor]) -> Tensor:
    """Sum over sites, in the shape of a batch, float64."""
    return torch.stack(torch.broadcast_tensors(*log_guide.values())).double().sum(0)


def responses(draws: list[Draws]) -> Tensor | None:
    """Responses of all draws, `[K, N, T]`; None if the guide has another site, or Pyro listed."""
    if not draws or draws[0].every or draws[0].values.keys() != {"response"}:
        return None
    values = [batch.values["response"] for batch in draws]
    return joined([value.reshape(-1, *value.shape[-2:]) for value in values])


def joined(parts: list[Tensor]) -> Tensor:
    """Tensors one after the other; a single tensor as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)

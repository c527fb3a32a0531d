"""Draws from a proposal and their weights against the posterior, shared by most samplers.

    log w(x) = log p0(x) + log likelihood(x) - log q(x)

q is the guide. Without a guide the prior proposes and log w(x) = log likelihood(x), without scoring
the prior.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference.programs import (
    Program,
    joint_at,
    log_guide_at,
    log_likelihood_at,
    response_distribution,
)
from inference.response_site import SameResponses
from model import Prompts
from model.common.checks import whole_number


class WeightedDraws(NamedTuple):
    """M responses to each of N prompts, with their weights.

    Attributes:
        response: `[M, N, T]`, token ids.
        log_weight: `[M, N]`, log w, nats, float64; -inf where the posterior has no mass.
        log_likelihood: `[M, N]`, nats, float64.
    """

    response: Tensor
    log_weight: Tensor
    log_likelihood: Tensor


def proposal_distribution(
    model: Program, guide: Program | None, prompts: Prompts
) -> TorchDistribution:
    """Distribution at the site `response` of the guide, or of the model without a guide."""
    if guide is None:
        return response_distribution(model, prompts, role="model")
    return response_distribution(guide, prompts, role="guide")


def weigh(
    model: Program, guide: Program | None, prompts: Prompts, response: Tensor
) -> WeightedDraws:
    """Weigh responses `[M, N, T]`, drawn from the guide, or from the prior if the guide is None."""
    if guide is None:
        log_likelihood = log_likelihood_at(model, prompts, response)
        return WeightedDraws(response, log_likelihood, log_likelihood)
    with SameResponses():
        joint = joint_at(model, prompts, response)
        log_guide = log_guide_at(guide, prompts, response)
    log_weight = joint.log_prior.double() + joint.log_likelihood - log_guide.double()
    return WeightedDraws(response, log_weight, joint.log_likelihood)


def draw(
    program: Program, prompts: Prompts, num_samples: int, *, chunk: int, role: str = "program"
) -> Iterator[Tensor]:
    """Draw from a program's `response` site, `num_samples` times, `chunk` draws at a time.

    Yields:
        Independent draws `[m, N, T]`, m <= chunk.

    Raises:
        ValueError: if `num_samples` or `chunk` is below 1.
    """
    num_samples = whole_number("num_samples", num_samples, why="responses drawn for each prompt")
    chunk = whole_number("chunk", chunk, why="responses handled at a time")
    distribution = response_distribution(program, prompts, role=role)
    for start in range(0, num_samples, chunk):
        yield distribution.sample(torch.Size([min(chunk, num_samples - start)]))


@torch.no_grad()
def draw_and_weigh(
    model: Program, prompts: Prompts, *, guide: Program | None, num_samples: int, chunk: int = 256
) -> WeightedDraws:
    """Draw `num_samples` times from the guide, or the prior if the guide is None, and weigh."""
    proposal, role = (model, "model") if guide is None else (guide, "guide")
    draws = draw(proposal, prompts, num_samples, chunk=chunk, role=role)
    parts = [weigh(model, guide, prompts, part) for part in draws]
    return WeightedDraws(*(torch.cat(column) for column in zip(*parts, strict=True)))

"""Draws from a proposal, weighed against the posterior: what importance, rejection and Metropolis-Hastings sampling share.

    log w(x) = log p0(x) + r(x)/beta - log q(x)

q is the guide. Without a guide the prior proposes, and as q = p0 cancels, log w(x) = r(x)/beta: the prior is never scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
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


class Weighed(NamedTuple):
    """M responses to each of N prompts and their weights.

    Attributes:
        response: `[M, N, T]`.
        log_weight: `[M, N]`, log p0 + r/beta - log q, nats, float64; -inf where the posterior rules a response out.
        log_likelihood: `[M, N]`, r/beta, nats, float64.
    """

    response: Tensor
    log_weight: Tensor
    log_likelihood: Tensor


def weigh(model: Program, guide: Program | None, prompts: Prompts, response: Tensor) -> Weighed:
    """Log-weights of `response` `[M, N, T]`, as drawn from the guide, or from the prior if the guide is None."""
    if guide is None:
        log_likelihood = log_likelihood_at(model, prompts, response)
        return Weighed(response, log_likelihood, log_likelihood)
    with SameResponses():
        joint, log_guide = (
            joint_at(model, prompts, response),
            log_guide_at(guide, prompts, response),
        )
    log_weight = joint.log_prior.double() + joint.log_likelihood - log_guide.double()
    return Weighed(response, log_weight, joint.log_likelihood)


def draw(
    program: Program,
    prompts: Prompts,
    num_samples: int,
    *,
    chunk: int,
    name: str = "num_samples",
    role: str = "program",
) -> Iterator[Tensor]:
    """Independent draws from a program's `response` site, `[m, N, T]` at a time, m <= chunk, `num_samples` in all.

    Raises:
        ValueError: if there is nothing to draw, at `name`, or in a chunk.
    """
    num_samples = whole_number(name, num_samples, why="responses drawn for each prompt")
    chunk = whole_number("chunk", chunk, why="responses handled at a time")
    distribution = response_distribution(program, prompts, role=role)
    for start in range(0, num_samples, chunk):
        yield distribution.sample(torch.Size([min(chunk, num_samples - start)]))


@torch.no_grad()
def draw_and_weigh(
    model: Program, prompts: Prompts, *, guide: Program | None, num_samples: int, chunk: int = 256
) -> Weighed:
    """Draw from the guide, or from the prior if the guide is None, and weigh every draw.

    Args:
        model: a Pyro program with a site `response` and factors.
        prompts: N prompts.
        guide: a Pyro program that samples the same site; None for the prior.
        num_samples: M, draws for each prompt.
        chunk: draws handled at a time, for each prompt.
    """
    proposal, role = (model, "model") if guide is None else (guide, "guide")
    draws = draw(proposal, prompts, num_samples, chunk=chunk, role=role)
    parts = [weigh(model, guide, prompts, part) for part in draws]
    response, log_weight, log_likelihood = zip(*parts, strict=True)
    return Weighed(torch.cat(response), torch.cat(log_weight), torch.cat(log_likelihood))

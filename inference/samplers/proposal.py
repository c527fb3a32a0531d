"""Draws from a proposal with their weights against the posterior, and the bar of long loops.

    log w(x) = log p0(x) + log likelihood(x) - log q(x)

q is the guide. Without a guide the prior proposes, is not scored, and log w = log likelihood.
"""

from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from typing import TypeVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from tqdm import tqdm

from inference.programs import (
    Joint,
    Program,
    check_log_prob,
    joint_at,
    log_guide_at,
    log_likelihood_at,
    response_distribution,
    sample_and_log_prob,
)
from inference.response_site import SameResponses
from model import Prompts
from model.common import ranks
from model.common.checks import whole_number

SILENT = 3.0  # number of seconds before a bar appears: short loops stay silent
Chunk = TypeVar("Chunk")


def proposal_distribution(
    model: Program, guide: Program | None, prompts: Prompts
) -> TorchDistribution:
    """Distribution at the site `response` of the guide, or of the model without a guide."""
    program, role = (model, "model") if guide is None else (guide, "guide")
    return response_distribution(program, prompts, role=role)


def weigh(model: Program, guide: Program | None, prompts: Prompts, response: Tensor) -> Tensor:
    """log w of responses `[M, N, T]`, `[M, N]`, nats, float64; -inf where p* has no mass."""
    if guide is None:
        return log_likelihood_at(model, prompts, response)
    with SameResponses():
        log_joint = joint_at(model, prompts, response).log_joint
        return log_joint - log_guide_at(guide, prompts, response).double()


def draw_chunks(
    model: Program, guide: Program | None, prompts: Prompts, num_samples: int, *, chunk: int
) -> Iterator[Tensor]:
    """Yield independent draws `[m, N, T]`, m <= chunk, from the guide, or the prior without one."""
    sizes = _sizes(num_samples, chunk)
    distribution = proposal_distribution(model, guide, prompts)
    name = "draws of the prior" if guide is None else "draws of the guide"
    for size in counted(name, sizes, sizes):
        yield distribution.sample(torch.Size([size]))


def counted(name: str, chunks: Sequence[Chunk], sizes: Sequence[int]) -> Iterator[Chunk]:
    """Yield chunks, behind a bar of the draws that are done, which disappears at the end.

    A worker of `multiprocessing`, and any rank but the first, shows no bar.

    Args:
        name: name of the bar.
        chunks: chunks of draws.
        sizes: number of draws of each chunk, for each prompt.
    """
    hidden = not ranks.is_first() or parent_process() is not None
    with tqdm(
        None, name, sum(sizes), leave=False, unit="draw", delay=SILENT, disable=hidden
    ) as bar:
        for chunk, size in zip(chunks, sizes, strict=True):
            yield chunk
            bar.update(size)


def _sizes(num_samples: int, chunk: int) -> list[int]:
    """Number of draws in each chunk."""
    num_samples = whole_number("num_samples", num_samples, why="responses drawn for each prompt")
    chunk = whole_number("chunk", chunk, why="responses handled at a time")
    return [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]


def draw_and_score(
    model: Program, guide: Program, prompts: Prompts, num_samples: int, *, chunk: int
) -> Iterator[tuple[Tensor, Tensor, Joint]]:
    """Yield draws of a guide, their log q `[m, N]`, nats, as the decode has it, and their joint."""
    sizes = _sizes(num_samples, chunk)
    with SameResponses():
        distribution = response_distribution(guide, prompts, role="guide")
        for size in counted("draws of the guide", sizes, sizes):
            response, log_guide = sample_and_log_prob(distribution, size)
            log_guide = check_log_prob(log_guide, guide, "guide")
            yield response, log_guide, joint_at(model, prompts, response)


@torch.no_grad()
def draw_and_weigh(
    model: Program, prompts: Prompts, guide: Program | None, num_samples: int, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """Draw responses `[M, N, T]` and weigh them: log w `[M, N]`, nats."""
    if guide is None:
        draws = draw_chunks(model, None, prompts, num_samples, chunk=chunk)
        parts = [(part, weigh(model, None, prompts, part)) for part in draws]
    else:
        scored = draw_and_score(model, guide, prompts, num_samples, chunk=chunk)
        parts = [(part, joint.log_joint - log_guide) for part, log_guide, joint in scored]
    responses, log_weights = zip(*parts, strict=True)
    return torch.cat(responses), torch.cat(log_weights)

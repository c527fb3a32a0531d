"""The best guide of a family, where every response can be listed: descent on the exact KL, without a single sample.

    reverse   KL(q || p*) = sum_x q(x) (log q(x) - log p*(x))
    forward   KL(p* || q) = sum_x p*(x) (log p*(x) - log q(x))

What is left at the minimum is the family's approximation gap (Cremer et al. 2018, arXiv 1801.03558).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from experiments.shared.claims import largest
from guides import Guide
from inference import Enumeration, log_guide_at

Direction = Literal["reverse", "forward"]


class Optimum(NamedTuple):
    """Where the descent ended.

    Attributes:
        guide: the best of all starts.
        kl: what it leaves, nats, averaged over prompts.
        grad_norm: the largest component of the gradient there, nats by unit of a parameter.
        kl_of_starts: what each start came to. Where they differ there are local optima.
    """

    guide: Guide
    kl: float
    grad_norm: float
    kl_of_starts: tuple[float, ...]


def exact_kl(truth: Enumeration, guide: Guide, direction: Direction) -> Tensor:
    """KL between guide and posterior, averaged over prompts, nats, with gradient."""
    log_q, log_p = log_guide_at(guide, truth.prompts, truth.support).double(), truth.log_posterior
    terms = (
        log_q.exp() * (log_q - log_p) if direction == "reverse" else log_p.exp() * (log_p - log_q)
    )
    return terms.sum(0).mean()  # [S, N] -> []


def family_optimum(
    truth: Enumeration,
    make: Callable[[], Guide],
    direction: Direction,
    *,
    num_starts: int = 1,
    noise: float = 1.0,
    max_iter: int = 1000,
) -> Optimum:
    """Minimise the exact KL over a guide's parameters by L-BFGS, from its own start and from jittered ones.

    A local method: of a family whose KL is not convex in its parameters, what it finds bounds the optimum from above.

    Args:
        truth: the exact posterior, none of whose responses is impossible.
        make: the guide at its own start, in float64: the last digits of a KL near 0 are beyond float32.
        direction: which KL.
        num_starts: in all.
        noise: of the jitter on all starts but the first.
        max_iter: of L-BFGS, for each start.
    """
    found = []
    for number in range(num_starts):
        guide = make()
        if number:
            guide.jitter(noise, torch.Generator().manual_seed(number))
        found.append((descend(truth, guide, direction, max_iter), guide))
    kl, guide = min(found, key=lambda pair: pair[0])
    return Optimum(
        guide, kl, _grad_norm(truth, guide, direction), tuple(value for value, _ in found)
    )


def descend(truth: Enumeration, guide: Guide, direction: Direction, max_iter: int) -> float:
    """Train a guide in place, on the exact KL. Returns what is left, nats."""
    parameters = list(guide.trained().values())
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        tolerance_grad=1e-9,
        tolerance_change=1e-10,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimiser.zero_grad()
        kl = exact_kl(truth, guide, direction)
        kl.backward()
        return kl.item()

    optimiser.step(closure)
    optimiser.zero_grad()
    with torch.no_grad():
        return exact_kl(truth, guide, direction).item()


def _grad_norm(truth: Enumeration, guide: Guide, direction: Direction) -> float:
    gradients = torch.autograd.grad(
        exact_kl(truth, guide, direction), list(guide.trained().values())
    )
    return largest(gradient.abs().max().item() for gradient in gradients)

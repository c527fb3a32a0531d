"""The best guide of a family if every response can be listed: descent on the exact KL.

    reverse   KL(q || p*) = sum_x q(x) (log q(x) - log p*(x))
    forward   KL(p* || q) = sum_x p*(x) (log p*(x) - log q(x))

The minimum is the family's approximation gap (Cremer et al. 2018, arXiv 1801.03558).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.shared.claims import largest
from experiments.shared.zoo import Direction
from guides import Guide
from inference import Enumeration, log_guide_at
from inference.enumeration import kl
from model.common.minimise import minimise


class Optimum(NamedTuple):
    """End of the descent.

    Attributes:
        guide: the best guide of all starts.
        kl: KL that the guide leaves, nats, averaged over prompts.
        grad_norm: largest component of the gradient at the guide, nats per unit of a parameter.
        kl_of_starts: KL from each start, nats. They differ if there are local optima.
    """

    guide: Guide
    kl: float
    grad_norm: float
    kl_of_starts: tuple[float, ...]


def exact_kl(truth: Enumeration, guide: Guide, direction: Direction) -> Tensor:
    """KL between guide and posterior, averaged over prompts, nats, with gradient."""
    log_q, log_p = log_guide_at(guide, truth.prompts, truth.support).double(), truth.log_posterior
    return (kl(log_p, log_q) if direction == "forward" else kl(log_q, log_p)).mean()


def family_optimum(
    truth: Enumeration,
    make: Callable[[], Guide],
    direction: Direction,
    *,
    num_starts: int = 1,
    max_iter: int = 1000,
) -> Optimum:
    """Minimise the exact KL over a guide's parameters by L-BFGS, from several starts.

    L-BFGS is a local method. If the KL is not convex in the parameters, the result is an upper
    bound on the minimum.

    Args:
        truth: the exact posterior, without impossible responses.
        make: builds the guide at its first start, in float64. float32 has too few digits for a KL
            near 0.
        direction: KL that is minimised.
        num_starts: number of starts. All but the first are jittered with a standard deviation of 1.
        max_iter: number of L-BFGS iterations from each start.
    """
    ends = []
    for number in range(num_starts):
        guide = make()
        if number:
            guide.jitter(1.0, torch.Generator().manual_seed(number))
        ends.append((descend(truth, guide, direction, max_iter), guide))
    kl, guide = min(ends, key=lambda end: end[0])
    parameters = list(guide.trained().values())
    gradients = torch.autograd.grad(exact_kl(truth, guide, direction), parameters)
    grad_norm = largest(gradient.abs().max().item() for gradient in gradients)
    return Optimum(guide, kl, grad_norm, tuple(kl for kl, _ in ends))


def descend(truth: Enumeration, guide: Guide, direction: Direction, max_iter: int) -> float:
    """Train a guide in place on the exact KL. Returns the KL that is left, nats."""
    distance, parameters = partial(exact_kl, truth, guide, direction), guide.trained().values()
    how: dict[str, Any] = {"tolerance_change": 1e-10, "history_size": 50}
    kl = minimise(distance, parameters, max_steps=max_iter, **how)
    guide.zero_grad()
    return kl

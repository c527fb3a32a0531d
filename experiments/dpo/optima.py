"""Exact losses, as sums over all responses and over all pairs, and their minimum."""

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.dpo.worlds import World
from guides import Guide
from inference import log_guide_at
from inference.direct_preferences import PreferenceProgram, ResponsePairs


def minimise(guide: Guide, loss: Callable[[], Tensor], steps: int) -> None:
    """Bring an exact loss to its minimum by L-BFGS."""
    optimiser = torch.optim.LBFGS(
        guide.parameters(),
        max_iter=steps,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def loss_of_elbo(guide: Guide, world: World) -> Tensor:
    """Minus the exact ELBO, nats, with gradient."""
    truth = world.truth
    log_guide = log_guide_at(guide, truth.prompts, truth.support)
    return -(log_guide.exp() * (truth.log_joint - log_guide)).sum()


def risk(program: PreferenceProgram, pairs: ResponsePairs) -> Tensor:
    """Mean loss over preferences without end, with gradient."""
    assert pairs.weight is not None
    return -(pairs.weight * program.log_likelihood(pairs)).sum()

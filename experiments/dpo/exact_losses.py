"""Exact losses, as sums over all responses and over all pairs."""

from torch import Tensor

from experiments.dpo.worlds import World
from guides import Guide
from inference import log_guide_at
from inference.direct_preferences import PreferenceProgram, ResponsePairs


def loss_of_elbo(guide: Guide, world: World) -> Tensor:
    """Minus the exact ELBO, nats, with gradient."""
    truth = world.truth
    log_guide = log_guide_at(guide, truth.prompts, truth.support)
    return -(log_guide.exp() * (truth.log_joint - log_guide)).sum()


def risk(program: PreferenceProgram, pairs: ResponsePairs) -> Tensor:
    """Mean loss over preferences without end, with gradient."""
    assert pairs.weight is not None
    return -(pairs.weight * program.log_likelihood(pairs)).sum()

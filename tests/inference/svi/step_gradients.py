"""Gradients of the steps of an objective on a tiny world; the guide does not move."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from guides import GUIDES
from inference import OBJECTIVES
from inference.objectives import Objective
from inference.programs import parameter_scope
from inference.svi.micro_batches import MicroBatches
from model import AlignmentModel, LanguageModel, Prompts, Reward
from model.common.ranks import average_gradients
from model.prior.division import Axis, divided
from tests.model.tiny import PROMPTS, tiny

World = tuple[LanguageModel, AlignmentModel, Prompts]


def world_of(network: str, reward: Reward, dtype: torch.dtype, *, max_new_tokens: int) -> World:
    """A network of moderate weights: large weights amplify the rounding of float32."""
    prior = tiny(network, dtype, max_new_tokens=max_new_tokens)
    with torch.no_grad():
        for parameter in prior.network.parameters():
            parameter *= 0.5
    prompts = prior.encode(PROMPTS)
    beta = dict(zip(prompts.names(), (0.4, 0.5, 0.6), strict=True))
    return prior, AlignmentModel(prior, reward, beta), prompts


def new_guide(entry: Objective, prior: LanguageModel, prompts: Prompts) -> nn.Module:
    guide = GUIDES[entry.guide](prior, prompts)
    guide.jitter(0.1, torch.Generator().manual_seed(0))
    return guide


def gradients_of_steps(
    world: World,
    name: str,
    num_steps: int,
    *,
    by: Axis = "particles",
    size: int | None = None,
    **options: Any,
) -> list[Tensor]:
    """Gradients of the steps of an objective, divided over ranks, in micro-batches of a size."""
    prior, model, prompts = world
    entry = OBJECTIVES[name]
    prompts = prompts[: entry.max_prompts or 3]
    guide = new_guide(entry, prior, prompts)
    objective, rows = entry(num_particles=4, **options), []
    if hasattr(objective, "prior_rewards"):
        objective.prior_rewards.num_draws = 64
    programs = [model, guide]
    if size is not None:
        programs = [MicroBatches(size)(program) for program in programs]
    pyro.set_rng_seed(1)
    with parameter_scope(guide), divided(by):
        for _ in range(num_steps):
            guide.zero_grad()
            objective.loss_and_grads(*programs, prompts)
            store = dict(pyro.get_param_store().named_parameters())
            average_gradients(store)
            grads = [p.grad for p in store.values() if p.grad is not None]
            rows.append(torch.cat([grad.flatten() for grad in grads]))
    return rows

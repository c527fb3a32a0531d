"""Guides of scripts: built by name, and trained by `fit`, or without noise by `ascend`."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pyro.infer import ELBO

from experiments.shared.early_stops import record_early_stop
from experiments.shared.refusals import blamed
from guides import GUIDES, Guide
from guides.guide import Options
from inference import LeaveOneOut_ELBO, fit
from inference.enumeration import Enumeration
from inference.objectives.leave_one_out import RewardOnly
from inference.programs import log_guide_at
from inference.svi.response_metrics import Metrics
from model import AlignmentModel, LanguageModel, Prompts

G = TypeVar("G", bound=Guide)
PURE, PENALISED = "reward alone", "with the KL penalty"
RL: dict[str, Callable[[int], ELBO]] = {PURE: RewardOnly, PENALISED: LeaveOneOut_ELBO}


def build_guide(name: str, options: Options, prior: LanguageModel, prompts: Prompts) -> Guide:
    """Build a guide by name; exit if an option or the prior does not suit the guide."""
    with blamed(f"--guide {name}"):
        return GUIDES[name](prior, prompts, **options)


def train(
    guide: G,
    model: AlignmentModel,
    prompts: Prompts,
    objective: ELBO,
    num_steps: int,
    seed: int = 0,
    **how: Any,
) -> G:
    """Train a guide in place by `fit`, which has further settings, and return the guide."""
    budget: dict[str, Any] = {"num_steps": num_steps, "seed": seed, "progress": False}
    result = fit(model, guide, prompts, objective=objective, **budget, **how)
    record_early_stop(result, f"{type(guide).__name__} by {type(objective).__name__}, seed {seed}")
    return guide


def ascend(
    guide: G,
    truth: Enumeration,
    num_steps: int,
    *,
    learning_rate: float,
    kl_penalty: bool,
    on_step: Callable[[Metrics], None] | None = None,
) -> G:
    """Train a guide by the exact gradient, with Adam at a constant rate, and return the guide.

    The gradient is of the ELBO with `kl_penalty`, else of E_q[log likelihood]. `on_step` is called
    with the number of the step after each step.
    """
    optimiser = torch.optim.Adam(guide.parameters(), lr=learning_rate)
    for step in range(1, num_steps + 1):
        log_guide = log_guide_at(guide, truth.prompts, truth.support)
        value = truth.log_joint - log_guide if kl_penalty else truth.log_likelihood
        optimiser.zero_grad()
        (-(log_guide.exp() * value).sum()).backward()
        optimiser.step()
        if on_step is not None:
            on_step({"step": step})
    return guide

"""Guides of scripts: built by name, and trained."""

from collections.abc import Callable
from typing import Any, TypeVar

from pyro.infer import ELBO

from experiments.shared.early_stops import record_early_stop
from experiments.shared.refusals import blamed
from guides import GUIDES, Guide
from guides.guide import Options
from inference import LeaveOneOut_ELBO, fit
from inference.objectives.leave_one_out import RewardOnly
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

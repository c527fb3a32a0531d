"""Guides of scripts: built by name, trained, saved; and the fits that stop early."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyro.infer import ELBO

from experiments.shared.refusals import blamed
from guides import GUIDES, Guide
from inference import Fit, LeaveOneOut_ELBO, fit
from inference.objectives.reward_only import RewardOnly
from inference.svi.step import Metrics
from model import AlignmentModel, LanguageModel, Prompts
from model.common.digests import saved_together

G = TypeVar("G", bound=Guide)
Options = dict[str, Any]
GUIDE_FILE = "guide.json"
"""Name of the record beside a saved guide."""
PURE, PENALISED = "reward alone", "with the KL penalty"
RL: dict[str, Callable[[int], ELBO]] = {PURE: RewardOnly, PENALISED: LeaveOneOut_ELBO}
"""RL without and with the KL penalty, by the number of responses in a step."""
_EARLY_STOPS: ContextVar[list[str] | None] = ContextVar("early_stops", default=None)


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
    *,
    learning_rate: float,
    seed: int = 0,
    on_step: Callable[[G, Metrics], None] | None = None,
) -> G:
    """Train a guide in place by `fit` with the default optimiser, and return the guide.

    `on_step` is called with the guide and the metrics after each step.
    """
    result = fit(
        model,
        guide,
        prompts,
        num_steps=num_steps,
        objective=objective,
        learning_rate=learning_rate,
        seed=seed,
        on_step=None if on_step is None else partial(on_step, guide),
        progress=False,
    )
    record_early_stop(result, f"{type(guide).__name__} by {type(objective).__name__}, seed {seed}")
    return guide


@contextmanager
def early_stops() -> Iterator[list[str]]:
    """List of the fits inside that stop before their last step, each with the reason."""
    stops: list[str] = []
    token = _EARLY_STOPS.set(stops)
    try:
        yield stops
    finally:
        _EARLY_STOPS.reset(token)


def record_early_stop(result: Fit, name: str) -> None:
    """Add a fit to the list of `early_stops` if the fit stopped early."""
    stops = _EARLY_STOPS.get()
    if result.stopped_early is not None and stops is not None:
        stops.append(f"{name}: stopped early at {result.stopped_early}")


def save_guide(folder: Path, guide: Guide, name: str, options: Options, prompts: Prompts) -> None:
    """Save a guide in its own format, with the name, options, prompts and vocabulary behind it."""
    record: Options = {"guide": name, "options": options, "prompts": prompts.texts}
    record["vocabulary"] = prompts.vocabulary
    with saved_together(folder) as new:
        guide.save_pretrained(new)
        (new / GUIDE_FILE).write_text(json.dumps(record, indent=2) + "\n")

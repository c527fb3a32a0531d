"""Training of a guide on preferences by `SVI`, in minibatches of pairs."""

import warnings
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from tqdm.auto import trange

from inference import random_state
from inference.direct_preferences.judgements import Judgements, ResponseLabels
from inference.direct_preferences.program import PreferenceProgram
from inference.svi.optimizer.fused import adam_on_cosine
from model.common.checks import boolean, function, instance, whole_number
from model.common.checks import seed as checked_seed
from model.common.thread_lock import THREAD_LOCK
from model.preferences import FIRST, SECOND


def fit_preferences(
    program: PreferenceProgram,
    pairs: Judgements,
    *,
    num_steps: int,
    pairs_per_step: int | None = None,
    learning_rate: float = 1e-3,
    clip_norm: float | None = None,
    seed: int = 0,
    on_step: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train the program's guide in place, and return the metrics of each step.

        losses = fit_preferences(PreferenceProgram(guide, prior, beta=0.1), pairs, num_steps=100)

    Args:
        program: likelihood of the outcomes with the guide as the head.
        pairs: C judgements, pairs or labelled responses.
        num_steps: number of steps.
        pairs_per_step: number of comparisons in a step, drawn without replacement; default all.
        learning_rate: peak rate of Adam, with a warm-up over a twentieth of the steps and a cosine.
        clip_norm: upper limit of the gradient's norm; default no limit.
        seed: random seed of the minibatches.
        on_step: function of the metrics of each step.
        progress: True to show a progress bar.

    Returns:
        A record for each step: `step`, and `loss`, the mean over the pairs of the step.
    """
    instance("program", program, PreferenceProgram)
    instance("pairs", pairs, Judgements)  # type: ignore[type-abstract]
    num_steps = whole_number("num_steps", num_steps)
    size = len(pairs)
    if pairs_per_step is not None:
        size = min(size, whole_number("pairs_per_step", pairs_per_step))
    optimizer = adam_on_cosine(num_steps, learning_rate, clip_norm)
    boolean("progress", progress)
    if on_step is not None:
        function("on_step", on_step, takes=1, why="the metrics of a step")
    _warn_of_one_label(pairs)
    metrics = []
    if program.prior is not None:
        pairs = pairs.scored(program.prior)
    isolated = random_state.isolated(checked_seed("seed", seed), pairs.outcome.device)
    with THREAD_LOCK, pyro.get_param_store().scope(), isolated:
        svi = SVI(program, lambda _: None, optimizer, Trace_ELBO())  # no latent variable
        bar = trange(num_steps, disable=not progress)
        for step in bar:
            batch = pairs
            if size < len(pairs):
                batch = pairs[torch.randperm(len(pairs))[:size].tolist()]
            record = {"step": step + 1, "loss": svi.step(batch) / len(batch)}
            metrics.append(record)
            bar.set_postfix(loss=f"{record['loss']:.4f}", refresh=False)
            if on_step is not None:
                on_step(record)
    return metrics


def _warn_of_one_label(pairs: Judgements) -> None:
    """Warn of labelled responses that all have one label."""
    labels = pairs.outcome.unique().tolist()
    if isinstance(pairs, ResponseLabels) and labels in ([FIRST], [SECOND]):
        kind = "desirable" if labels == [FIRST] else "undesirable"
        fault = f"all {len(pairs)} labelled responses are {kind}, so nothing tells them apart"
        warnings.warn(f"{fault}: give responses of both labels", stacklevel=3)

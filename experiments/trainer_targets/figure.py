"""Bars of the prior, the posterior and the targets of trainers, side by side."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.shared.figures import POSTERIOR, PRIOR, palette
from experiments.trainer_targets.trainers import Trainer
from experiments.trainer_targets.worlds import World


def bars(trainers: Mapping[str, Trainer], worlds: Mapping[str, World]) -> Figure:
    """A row for each different target: the target of a trainer between prior and posterior.

    Responses are in the order of their reward, the best at the right.
    """
    cases: dict[tuple[str, float], str] = {}
    for name, each in trainers.items():
        cases.setdefault((each.target, each.beta), name)
    figure = Figure(figsize=(9.0, 1.8 * len(cases)))
    rows = figure.subplots(len(cases), 1, sharex=True, squeeze=False)[:, 0]
    for place, color, ((target, beta), name) in zip(
        rows, palette(len(cases)), cases.items(), strict=True
    ):
        world = worlds[name]
        truth = world.truth
        order = world.model.reward(world.prompts, truth.support)[:, 0].argsort()
        columns = (truth.log_prior, truth.log_posterior, world.log_target)
        labels = ("prior", "posterior", f"target {target}")
        for k, (column, label) in enumerate(zip(columns, labels, strict=True)):
            middle = np.arange(len(order)) + 0.28 * (k - 1)
            shade = (PRIOR, POSTERIOR, color)[k]
            place.bar(middle, column[order, 0].exp(), 0.28, color=shade, label=label)
        place.set(title=f"{name}, beta {beta:g}", ylabel="probability")
        place.legend(loc="upper center")
    texts = [row[0] for row in world.prior.decode(truth.support)]
    rows[-1].set_xticks(range(len(order)), [texts[i] or "(end)" for i in order], rotation=90)
    rows[-1].set_xlabel("response, by its reward")
    figure.tight_layout()
    return figure

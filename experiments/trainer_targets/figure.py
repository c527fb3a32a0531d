"""Targets of trainers between the prior and the posterior, side by side."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from experiments.shared.figures import GUIDE, POSTERIOR, PRIOR, legend_below, new_grid
from experiments.trainer_targets.trainers import Trainer
from experiments.trainer_targets.worlds import World

SAME = 1e-3
"""Largest KL from a target that equals the posterior to the posterior, nats."""


def targets_figure(trainers: Mapping[str, Trainer], worlds: Mapping[str, World]) -> Figure:
    """A panel for each different target: the target of a trainer, the prior and the posterior.

    Responses are in the order of their reward, the best at the right. All numbers are exact.
    """
    cases: dict[tuple[str, float], str] = {}
    for name, each in trainers.items():
        cases.setdefault((each.target, each.beta), name)
    labels = {"xlabel": "rank by reward, the best last", "ylabel": "probability"}
    figure, grid = new_grid(len(cases), 1.5, **labels)
    for axes, ((_, beta), name) in zip(grid, cases.items(), strict=True):
        world = worlds[name]
        truth = world.truth
        order = world.model.reward(world.prompts, truth.support)[:, 0].argsort()
        places = range(1, len(order) + 1)
        prior = truth.log_prior[order, 0].exp().numpy()
        axes.bar(places, prior, color=PRIOR, alpha=0.5, label="prior")
        columns = {
            "posterior": (truth.log_posterior, POSTERIOR, "o"),
            "target": (world.log_target, GUIDE, "x"),
        }
        for label, (column, color, marker) in columns.items():
            axes.plot(places, column[order, 0].exp().numpy(), marker, color=color, label=label)
        axes.set_title(f"{name}, beta {beta:g}")
    apart = sum(worlds[name].apart() > SAME for name in cases.values())
    figure.suptitle(f"{apart} of {len(cases)} targets of trainers differ from the posterior")
    legend_below(figure, grid[0], 3)
    return figure

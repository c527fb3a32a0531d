"""Approximation gap and optimisation gap of each guide, on the world `eight-tokens`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.guide_zoo.runs import KL, MEASURE, OBJECTIVE, OTHER, VARIANTS, notes
from experiments.shared.figures import GUIDE, POSTERIOR, PRIOR, legend_below
from experiments.shared.tables import Row, mean_and_error, table_of
from experiments.shared.zoo import Direction, Job, Result, by_name
from inference import Estimate

WORLD = "eight-tokens"


class Gap(NamedTuple):
    """KL that a guide leaves, nats: at the optimum of its family, and in addition after SVI."""

    approximation: float
    optimisation: float
    standard_error: float


def list_jobs(
    names: Sequence[str], num_seeds: int, num_steps: int, num_particles: int, max_iter: int
) -> list[Job]:
    """The optimum of each guide under both KL, and fits by SVI."""
    names = [name for name in names if VARIANTS[name].on_tokens]
    jobs = []
    for name in names:
        jobs += [Job(WORLD, name, max_iter, 0, None, direction) for direction in OTHER]
        for direction in OTHER:
            for seed in range(num_seeds):
                jobs.append(Job(WORLD, name, num_steps, num_particles, seed, direction))
    return jobs


def report(results: Sequence[Result]) -> dict[str, Figure]:
    """Print a table for each KL. Returns the figure by name."""
    panels = {}
    for direction in OTHER:
        title = KL[direction], OBJECTIVE[direction]
        of_direction = [result for result in results if result.job.direction == direction]
        rows, panels[title] = table_rows(of_direction, direction)
        print("", table_of(", SVI by ".join(title), rows), sep="\n")
    return {"gaps": gaps_figure(panels)}


def table_rows(
    results: Sequence[Result], direction: Direction
) -> tuple[dict[str, Row], dict[str, Gap]]:
    """Table rows and gaps of each guide, from results that minimise one KL."""
    rows: dict[str, Row] = {}
    gaps = {}
    measure, other = MEASURE[direction], MEASURE[OTHER[direction]]
    for name, of_name in by_name(results).items():
        [best] = [result.measured for result in of_name if result.job.seed is None]
        fits = [result for result in of_name if result.job.seed is not None]
        trained = [result.measured for result in fits if result.measured]
        total, error = mean_and_error(trained, measure)
        gap = total - best[measure]
        rows[name + notes(fits)] = {
            "trained": f"{best['parameters']:,.0f}",
            "approximation gap": best[measure],
            "optimisation gap": Estimate(gap, error),
            KL[direction]: Estimate(total, error),
            f"{KL[OTHER[direction]]} at optimum": best[other],
            "entropy at optimum": best["entropy"],
            "entropy by SVI": mean_and_error(trained, "entropy"),
            "E[r] at optimum": best["reward"],
            "CPU s a step": mean_and_error(trained, "seconds"),
        }
        gaps[name] = Gap(best[measure], gap, 0.0 if math.isnan(error) else error)
    return rows, gaps


def gaps_figure(panels: Mapping[tuple[str, str], Mapping[str, Gap]]) -> Figure:
    """KL at each family's optimum and after SVI; the line between them is the optimisation gap.

    A panel has the names of the KL and of the objective.
    """
    size = 7.0, 1.6 + 0.26 * max(len(gaps) for gaps in panels.values())
    shape: dict[str, Any] = {"squeeze": False, "sharex": True, "sharey": True}
    figure, grid = plt.subplots(1, len(panels), figsize=size, **shape)
    for axes, (title, gaps) in zip(grid[0], panels.items(), strict=True):
        names = list(gaps)
        family, optimisation, error = np.array(list(gaps.values())).T
        total, error = family + optimisation, 2 * error
        # a bar that reached 0 would leave a logarithmic axis
        bars = [np.minimum(error, 0.9 * total), error]
        axes.hlines(names, family, total, color=PRIOR, linewidth=1)
        label = "best guide of the family: approximation gap"
        axes.plot(family, names, "s", color=POSTERIOR, markersize=5, label=label)
        style = {"fmt": "o", "color": GUIDE, "markersize": 5, "label": "after SVI (± 2 s.e.)"}
        axes.errorbar(total, names, xerr=bars, **style)
        axes.set(xscale="log", xlabel=f"{title[0]}, nats", title=f"SVI by {title[1]}")
        axes.tick_params(axis="x", labelsize=11)
    grid[0, 0].invert_yaxis()
    figure.suptitle("The KL that a guide leaves: its family's gap, plus SVI's gap (line)")
    legend_below(figure, grid[0, 0])
    return figure

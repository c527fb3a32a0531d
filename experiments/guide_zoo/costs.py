"""Distance and cost of each guide that scales, after the same few steps, on `film-reviews`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.guide_zoo.runs import KL, MEASURE, VARIANTS, notes
from experiments.shared.figures import legend_below, looks, plane_figure, smooth
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.worlds import WORLDS
from experiments.shared.zoo import Job, Result, by_name
from inference import Estimate, PriorSample

WORLD = "film-reviews"
COLUMNS = {
    "CPU s a step": "seconds",
    KL["reverse"]: "kl_guide_posterior",
    KL["forward"]: "kl_posterior_guide",
    "E[r]": "reward",
    "KL(q || p0)": "kl_guide_prior",
    "entropy": "entropy",
}
"""Names of measurements, by the heading of their column."""


def list_jobs(
    names: Sequence[str], num_seeds: int, num_steps: int, num_particles: int
) -> list[Job]:
    """Fits by SVI of the guides that scale."""
    names = [name for name in names if VARIANTS[name].on_text]
    seeds = range(num_seeds)
    return [Job(WORLD, name, num_steps, num_particles, seed) for name in names for seed in seeds]


def report(results: Sequence[Result]) -> dict[str, Figure]:
    """Print a table of the guides. Returns figures of reward against KL, and of costs, by name."""
    rows: dict[str, list[str] | str] = {}
    means: dict[str, dict[str, Estimate]] = {}
    trajectories = {}
    for name, of_name in by_name(results).items():
        trained = [result for result in of_name if result.measured]
        if not trained:
            rows[name] = notes(of_name)
            continue
        measures = ("parameters", *COLUMNS.values())
        means[name] = mean = {measure: mean_over_seeds(trained, measure) for measure in measures}
        trajectories[name] = trained[0].trajectory
        cells = [cell(*mean[measure]) for measure in COLUMNS.values()]
        rows[name + notes(of_name)] = [f"{mean['parameters'].value:,.0f}", *cells]
    print(text_table(["trained", *COLUMNS], rows))
    world = WORLDS[WORLD]()
    frontier = frontier_figure(means, trajectories, world.sample, world.model.beta)
    return {"frontier": frontier, "costs": cost_figure(means)}


def mean_over_seeds(results: Sequence[Result], name: str) -> Estimate:
    """Mean over seeds; for one seed with the standard error of the measurement."""
    mean = mean_and_error([result.measured for result in results], name)
    if len(results) == 1:
        return Estimate(mean.value, results[0].error.get(name, math.nan))
    return mean


def frontier_figure(
    means: Mapping[str, Mapping[str, Estimate]],
    trajectories: Mapping[str, Sequence[Sequence[float]]],
    sample: PriorSample,
    beta: float,
) -> Figure:
    """Reward against KL to the prior: trajectory of each guide, and its end ± 2 errors."""
    ends = {name: (mean["kl_guide_prior"], mean["reward"]) for name, mean in means.items()}
    title = "Every guide stays below the posteriors, which\nno distribution exceeds (ends ± 2 s.e.)"
    figure, axes = plane_figure(sample, ends, title, beta)
    for name, look in zip(means, looks(len(means)), strict=True):
        kl, rewards = (smooth(values) for values in zip(*trajectories[name], strict=True))
        axes.plot(kl, rewards, color=look["color"], alpha=0.5, linewidth=0.8)
    legend_below(figure, axes, 3)
    return figure


def cost_figure(means: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Both KL of each guide, ± 2 standard errors, against parameters and seconds of a step."""
    shape: dict[str, Any] = {"figsize": (6.6, 5.0), "sharex": "col", "sharey": "row"}
    figure, grid = plt.subplots(2, 2, **shape)
    for row, (direction, measure) in zip(grid, MEASURE.items(), strict=True):
        for axes, cost in zip(row, ("parameters", "seconds"), strict=True):
            for (name, mean), look in zip(means.items(), looks(len(means)), strict=True):
                kl = mean[measure]
                place = [mean[cost].value], [kl.value], [2 * kl.standard_error]
                axes.errorbar(*place, **look, linestyle="", label=name)
            axes.set_ylim(0, None)
        row[0].set_ylabel(f"{KL[direction]}, nats")
    grid[1, 0].set(xscale="log", xlabel="trained parameters")
    grid[1, 1].set(xlim=(0, None), xlabel="CPU seconds a step")
    figure.suptitle("KL left after the same steps,\nby the cost of the guide (± 2 s.e.)")
    if means:
        legend_below(figure, grid[0, 0], 3)
    return figure

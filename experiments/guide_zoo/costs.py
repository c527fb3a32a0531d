"""Distance and cost of each guide that scales, after the same few steps, on `film-reviews`."""

import math
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.guide_zoo.runs import KL, VARIANTS, notes
from experiments.shared.figures import new_axes, palette, plot_frontier, smooth
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
    assert world.prior_sample is not None
    frontier = frontier_figure(means, trajectories, world.prior_sample, world.model.beta)
    return {"frontier": frontier, "costs": cost_figure(means)}


def mean_over_seeds(results: Sequence[Result], name: str) -> Estimate:
    """Mean over seeds; for one seed with the standard error of the measurement."""
    mean, error = mean_and_error([result.measured for result in results], name)
    if len(results) == 1:
        error = results[0].error.get(name, math.nan)
    return Estimate(mean, error)


def frontier_figure(
    means: Mapping[str, Mapping[str, Estimate]],
    trajectories: Mapping[str, Sequence[Sequence[float]]],
    sample: PriorSample,
    beta: float,
) -> Figure:
    """Reward against KL to the prior: trajectory and end of each guide below the posteriors."""
    figure, axes = new_axes(8.0, 5.0)
    furthest = plot_frontier(axes, sample, beta)
    for (name, mean), color in zip(means.items(), palette(len(means)), strict=True):
        kl, rewards = (smooth(values) for values in zip(*trajectories[name], strict=True))
        axes.plot(kl, rewards, color=color, alpha=0.5, linewidth=0.8)
        end = mean["kl_guide_prior"].value
        axes.plot([end], [mean["reward"].value], "o", color=color, label=name)
        furthest = max(furthest, end, float(kl.max()))
    axes.set(xlim=(-0.05 * furthest, 1.15 * furthest))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def cost_figure(means: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Both KL of each guide, ± 2 standard errors, against parameters and seconds of a step."""
    figure, (parameters, seconds) = plt.subplots(1, 2, figsize=(10.0, 4.2), sharey=True)
    markers = {"kl_guide_posterior": "o", "kl_posterior_guide": "^"}
    for (name, mean), color in zip(means.items(), palette(len(means)), strict=True):
        for measure, marker in markers.items():
            kl = mean[measure]
            for axes, cost in ((parameters, "parameters"), (seconds, "seconds")):
                place = [mean[cost].value], [kl.value], [2 * kl.standard_error]
                label = name if marker == "o" else None
                axes.errorbar(*place, color=color, fmt=marker, linewidth=1, label=label)
    ylabel = "nats; dots KL(q || p*), triangles KL(p* || q)"
    parameters.set(xscale="log", xlabel="trained parameters", ylabel=ylabel, ylim=(0, None))
    seconds.set(xlabel="CPU seconds a step", xlim=(0, None))
    if means:
        seconds.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

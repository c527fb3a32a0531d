"""Curves of all groups over each other: one chart for each metric, as data and as figures."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.compare.runs import Group, Run
from experiments.shared.figures import legend_below, looks, new_axes, smooth
from experiments.shared.tables import mean_and_error

FIRST = (
    *("elbo", "reward", "kl", "entropy", "reward_std"),
    *("completions/mean_length", "completions/clipped_ratio"),
)
"""Metrics whose charts come first, in this order."""
NO_CURVE = {"step", "num_responses"}
UNITS = {
    "elbo": "nats",
    "kl": "nats per response",
    "kl_per_token": "nats per token",
    "entropy": "nats",
    "log_likelihood": "nats",
    "step_size": "nats",
    "completions/mean_length": "tokens",
    "step_time": "seconds",
}
"""Units of metrics that have one."""
MOST_POINTS = 400
"""Largest number of points of a curve on the page."""


class Curve(NamedTuple):
    """Curve of a group: the mean over its runs, with the standard error over seeds."""

    label: str
    steps: np.ndarray
    mean: np.ndarray
    error: np.ndarray


def metric_names(groups: Sequence[Group]) -> list[str]:
    """Names of all metrics that a run has, the most important first."""
    runs = [run for group in groups for run in group.runs if run.metrics]
    names = dict.fromkeys(name for run in runs for name in run.metrics[-1])
    every = [name for name in names if name not in NO_CURVE]
    return [n for n in FIRST if n in every] + sorted(n for n in every if n not in FIRST)


def curves(groups: Sequence[Group], name: str, window: int) -> list[Curve]:
    """Curves of a metric, each a running mean over `window` steps; without groups that lack it.

    A point is the mean over the seeds that have the step, so that an interrupted run counts up to
    its last step.
    """
    drawn = []
    for group in groups:
        runs = [_smoothed(run, name, window) for run in group.by_seed]
        if steps := sorted(set().union(*runs)):
            rows = [[{name: values[step]} for values in runs if step in values] for step in steps]
            mean, error = np.array([mean_and_error(row, name) for row in rows]).T
            drawn.append(Curve(group.label, np.array(steps), mean, error))
    return drawn


def _smoothed(run: Run, name: str, window: int) -> dict[int, float]:
    """Running mean of a metric by step, of the steps that have a number."""
    pairs = [(int(record["step"]), record[name]) for record in run.metrics if name in record]
    finite = [(step, value) for step, value in pairs if math.isfinite(value)]
    values = smooth([value for _, value in finite], window)
    return dict(zip((step for step, _ in finite), map(float, values), strict=True))


def chart_data(drawn: Sequence[Curve], name: str, labels: Sequence[str]) -> dict[str, Any]:
    """A chart as JSON: its curves by place of the label, thinned, rounded to six digits."""
    series = []
    for curve in drawn:
        every = slice(None, None, -(-len(curve.steps) // MOST_POINTS) or 1)
        mean, error = (list(map(_plain, each[every])) for each in (curve.mean, curve.error))
        place, steps = labels.index(curve.label), curve.steps[every].tolist()
        series.append({"group": place, "x": steps, "y": mean, "e": error})
    return {"name": name, "unit": UNITS.get(name, ""), "series": series}


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def figure_of(drawn: Sequence[Curve], name: str, labels: Sequence[str], window: int) -> Figure:
    """The chart as a figure for a paper: means, and bands of two standard errors over seeds.

    `window` is the number of steps behind each point.
    """
    figure, axes = new_axes()
    every = looks(len(labels))
    for curve in drawn:
        look, spread = every[labels.index(curve.label)], max(1, len(curve.steps) // 8)
        style: dict[str, Any] = {"linewidth": 1.2, "markersize": 4, "markevery": spread}
        axes.plot(curve.steps, curve.mean, **look, **style, label=curve.label)
        low, high = curve.mean - 2 * curve.error, curve.mean + 2 * curve.error
        axes.fill_between(curve.steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
    unit = UNITS.get(name, "")
    steps = "SVI step" if window == 1 else f"SVI step (running mean over {window} steps)"
    axes.set(xlabel=steps, ylabel=unit or name)
    over_seeds = any(np.isfinite(curve.error).any() for curve in drawn)
    axes.set_title(f"{name}, {'mean over seeds ± 2 s.e.' if over_seeds else 'one run each'}")
    legend_below(figure, axes, 1 if max(map(len, labels)) > 24 else 2)
    return figure

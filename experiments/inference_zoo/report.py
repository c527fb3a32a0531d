"""Table and curves of the inference zoo."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.shared.figures import new_axes, palette
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.zoo import Result, by_name

COLUMNS = {
    "KL(q || p*)": "kl_guide_posterior",
    "KL(p* || q)": "kl_posterior_guide",
    "log Z error": "log_z_error",
    "E[r]": "reward",
    "entropy": "entropy",
    "distinct-2": "distinct_2",
    "CPU s": "seconds",
}
"""Names of measurements, by the heading of their column."""


Curve = list[tuple[int, float, float]]
"""Budgets, mean KL(q || p*) and its standard error."""


def report(results: Sequence[Result]) -> dict[str, Figure]:
    """Print the table of a world. Returns the figure by name."""
    print(table(results))
    world = results[0].job.world
    return {world: error_budget_figure(budget_curves(results), world)}


def table(results: Sequence[Result]) -> str:
    """Table at the largest budget: means over seeds, in the order of KL(q || p*)."""
    budget = max(result.job.budget for result in results)
    largest = [result for result in results if result.job.budget == budget]
    rows: dict[str, tuple[float, list[str] | str]] = {}
    for name, of_name in by_name(largest).items():
        measured = [result.measured for result in of_name]
        kl, _ = mean_and_error(measured, "kl_guide_posterior")
        refused = [result.note for result in of_name if not result.measured]
        stopped = [result.note for result in of_name if result.measured and result.note]
        cells = [cell(*mean_and_error(measured, column)) for column in COLUMNS.values()]
        rows[", ".join([name, *stopped[:1]])] = kl, f"refused: {refused[0]}" if refused else cells
    order = sorted(rows, key=lambda name: (math.isnan(rows[name][0]), rows[name][0]))
    return text_table(list(COLUMNS), {name: rows[name][1] for name in order})


def budget_curves(results: Sequence[Result]) -> dict[str, Curve]:
    """Curve of each algorithm that has a KL, by rising budget."""
    curves = {}
    for name, of_name in by_name(results).items():
        curve: Curve = []
        for budget in sorted({result.job.budget for result in of_name}):
            measured = [result.measured for result in of_name if result.job.budget == budget]
            mean, error = mean_and_error(measured, "kl_guide_posterior")
            if math.isfinite(mean) and mean > 0:
                curve.append((budget, mean, 0.0 if math.isnan(error) else error))
        if curve:
            curves[name] = curve
    return curves


def error_budget_figure(curves: Mapping[str, Curve], title: str) -> Figure:
    """KL(q || p*) of every algorithm against the number of responses, both axes logarithmic."""
    figure, axes = new_axes(9.0, 6.0)
    order = sorted(curves, key=lambda name: -curves[name][-1][1])
    for name, color in zip(order, palette(len(order)), strict=True):
        budget, mean, error = np.array(curves[name]).T
        below = np.minimum(error, 0.9 * mean)  # a bar down to 0 would leave the logarithmic axis
        style: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1}
        axes.errorbar(budget, mean, [below, error], color=color, label=name, **style)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(xlabel="responses drawn", ylabel="KL(q || p*), nats")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

"""Table and figures of the inference zoo."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.inference_zoo.runs import FROM_GUIDE
from experiments.shared.figures import GUIDE, POSTERIOR, legend_below, new_axes
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.zoo import Result, by_name
from inference import OBJECTIVES, SAMPLERS

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


TRAINED = (GUIDE, "s", "draws of a trained guide")
SAMPLER = (POSTERIOR, "o", "draws of the prior")
"""Colour, marker and label of algorithms."""
Curve = list[tuple[int, float, float]]
"""Budgets, mean KL(q || p*) and its standard error."""


def report(results: Sequence[Result]) -> dict[str, Figure]:
    """Print the table of a world. Returns the figures by name."""
    print(table(results))
    world = results[0].job.world
    return budget_figures(budget_curves(results), world)


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


def budget_figures(curves: Mapping[str, Curve], world: str) -> dict[str, Figure]:
    """Figure of the objectives and figure of the samplers, on one scale, by name."""
    trained = {name: curve for name, curve in curves.items() if name in OBJECTIVES}
    drawn = {name: curve for name, curve in curves.items() if name not in OBJECTIVES}
    means = [mean for curve in curves.values() for _, mean, _ in curve]
    limits = (min(means) / 2, max(means) * 2) if means else (1e-3, 1.0)
    kinds = {kind: one for kind, one in {"objectives": trained, "samplers": drawn}.items() if one}
    return {f"{world}-{kind}": budget_figure(kinds[kind], kind, world, limits) for kind in kinds}


def budget_figure(
    curves: Mapping[str, Curve], kind: str, world: str, limits: tuple[float, float]
) -> Figure:
    """KL(q || p*), ± 2 errors: a row for each algorithm; a larger budget is a darker point.

    A sampler and the same sampler from a trained guide have one row.
    """
    order = sorted(curves, key=lambda name: curves[name][-1][1])
    rows = list(dict.fromkeys(name.removesuffix(FROM_GUIDE) for name in order))
    figure, axes = new_axes(6.6, 1.6 + 0.2 * len(rows))
    budgets = sorted({budget for curve in curves.values() for budget, _, _ in curve})
    for name in order:
        color, marker, label = SAMPLER if name in SAMPLERS else TRAINED
        place = rows.index(name.removesuffix(FROM_GUIDE)) + 0.25 * name.endswith(FROM_GUIDE)
        _, means, _ = zip(*curves[name], strict=True)
        axes.plot(means, [place] * len(means), color=color, alpha=0.3, linewidth=1)
        if label not in axes.get_legend_handles_labels()[1]:
            axes.plot([], [], marker, color=color, markersize=4, label=label)
        for budget, mean, error in curves[name]:
            # a bar that reached 0 would leave the logarithmic axis
            bars = [[min(2 * error, 0.9 * mean)], [2 * error]]
            style: dict[str, Any] = {"markersize": 4, "alpha": (budget / budgets[-1]) ** 0.4}
            axes.errorbar([mean], [place], xerr=bars, fmt=marker, color=color, **style)
    axes.set_yticks(range(len(rows)), rows, fontsize=10)
    axes.set(xscale="log", xlim=limits, ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlabel("KL(q || p*), nats (± 2 s.e.)")
    *fewer, most = (f"{budget:,}" for budget in budgets)
    paler = f"; paler: {', '.join(fewer)}" if fewer else ""
    factor = curves[order[-1]][-1][1] / curves[order[0]][-1][1]
    axes.set_title(
        f"On {world}, {kind} differ by a factor of {factor:,.0f}\n({most} responses{paler})"
    )
    legend_below(figure, axes)
    return figure

"""Tables and figure of all runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.foreign.design import FACTORS
from experiments.foreign.findings import (
    LARGEST,
    MOST_LEFT,
    REVERSE,
    SMALLEST,
    by_share,
    is_above,
    shares_left,
)
from experiments.foreign.records import Run
from experiments.shared.figures import PRIOR, legend_below, looks, new_axes
from experiments.shared.tables import cell, text_table
from model.common.files import write_atomically

NUM_WORST = 10
UNRELIABLE = "?"
"""End of a number whose weights are not to be trusted; the records have the reason."""
SHOWN = (0.01, 10.0)
"""Range of shares in the figure; shares outside are drawn at its ends."""
COLUMNS = (
    "runs",
    f"median share left, start {SMALLEST:g} to {LARGEST:g} [interval of 95%] of runs",
    f"median share left, start over {SMALLEST:g} [interval of 95%] of runs",
    f"worst share left, start over {SMALLEST:g}",
    "median change of KL(p* || q)",
    "worst change",
    "above KL(p0 || p*)",
    "unreliable",
)
WORST_COLUMNS = ("start", "end", "share left", "change of KL(p* || q)", "entropy", "of the prior")


def tables(runs: Sequence[Run]) -> list[str]:
    """Medians and worst runs by level, and the worst runs by name."""
    by_name = text_table(WORST_COLUMNS, _worst_rows(runs))
    parts = [text_table(COLUMNS, _level_rows(runs)), f"Largest shares left\n{by_name}"]
    seconds = np.array([run.seconds for run in runs]).sum(0)
    parts.append("CPU minutes: {:.1f} of fits, {:.1f} in all".format(*seconds / 60))
    if stops := [f"{run.name}: {run.stopped_early}" for run in runs if run.stopped_early]:
        parts.append("\n".join(["Stopped early", *stops]))
    return parts


def write_markdown(runs: Sequence[Run], file: Path) -> None:
    """Write the tables in Markdown, for a README."""
    parts = [
        _markdown("level", COLUMNS, _level_rows(runs)),
        _markdown("run", WORST_COLUMNS, _worst_rows(runs)),
    ]
    write_atomically(file, "\n\n".join(parts) + "\n")


def strip_figure(runs: Sequence[Run]) -> Figure:
    """Share of KL(p0 || p*) left by each run, ± 2 errors, by guide and objective."""
    figure, axes = new_axes(6.8, 4.2)
    guides, objectives = FACTORS["guide"], FACTORS["objective"]
    for place, look in enumerate(looks(len(objectives))):
        shown = [run for run in by_share(runs) if run.cell.objective == objectives[place]]
        x = [guides.index(run.cell.guide) + 0.2 * place - 0.3 for run in shown]
        values, errors = np.array([run.share_left for run in shown]).reshape(-1, 2).T
        y = values.clip(*SHOWN)
        # a bar that reached 0 would leave a logarithmic axis
        bars = [np.minimum(2 * errors, 0.9 * y), 2 * errors]
        style: Any = {"linestyle": "", "markersize": 4, "elinewidth": 1, "alpha": 0.7}
        axes.errorbar(x, y, bars, **look, **style, label=objectives[place])
    axes.axhline(1.0, color=PRIOR, linewidth=0.8, label="no nearer than the prior")
    line: Any = {"linestyle": ":", "label": f"limit of the median, {MOST_LEFT:.0%}"}
    axes.axhline(MOST_LEFT, color=PRIOR, linewidth=1.2, **line)
    axes.set(yscale="log", ylim=SHOWN, ylabel="KL(q || p*) / KL(p0 || p*)")
    middle = shares_left(runs, LARGEST)
    left = f"a median of {median(middle):.0%}" if middle else "an unknown share"
    starts = f"median of starts up to {LARGEST:g} nats; all over {SMALLEST:g} nat"
    axes.set_title(f"The defaults leave {left} of KL(p0 || p*)\n({starts} shown, ± 2 s.e.)")
    axes.set_xticks(range(len(guides)), guides)
    axes.set_xlim(-0.5, len(guides) - 0.5)
    legend_below(figure, axes)
    return figure


def _level_rows(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Row of `COLUMNS` for each level that some run has, by factor and level, and for all runs."""
    rows = {"all": _row(runs)}
    for factor, levels in FACTORS.items():
        for level in levels:
            if of_level := [run for run in runs if getattr(run.cell, factor) == level]:
                rows[f"{factor} {level}"] = _row(of_level)
    return rows


def _row(runs: Sequence[Run]) -> list[str]:
    middle, every = shares_left(runs, LARGEST), shares_left(runs)
    changes = [run.change.value for run in runs if run.is_reliable and not run.note]
    reverse = [run for run in runs if run.cell.objective in REVERSE]
    return [
        str(len(runs)),
        _median_with_interval(middle),
        _median_with_interval(every),
        f"{max(every):.0%}" if every else "-",
        f"{median(changes):+.2f}" if changes else "-",
        f"{max(changes):+.2f}" if changes else "-",
        f"{sum(is_above(run.rise) for run in reverse)} of {len(reverse)}",
        str(sum(not run.is_reliable for run in runs)),
    ]


def _median_with_interval(shares: Sequence[float]) -> str:
    """Median, its interval by order statistics if there are six shares, and their number."""
    from scipy.stats import quantile_test

    if not shares:
        return "-"
    low, high = quantile_test(shares, p=0.5).confidence_interval()
    interval = "" if np.isnan(low) else f" [{low:.0%}, {high:.0%}]"
    return f"{median(shares):.0%}{interval} of {len(shares)}"


def _worst_rows(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Row of `WORST_COLUMNS` for the runs with the largest shares left, by name."""
    rows = {}
    for run in by_share(runs)[:NUM_WORST]:
        end, share = run.after["kl_guide_posterior"], run.share_left.times(100)
        entropies = [f"{numbers['entropy'].value:.1f}" for numbers in (run.after, run.prior)]
        cells = [cell(*run.start), cell(*end), f"{share.value:.0f}%", cell(*run.change)]
        mark = "" if run.is_reliable else UNRELIABLE
        rows[run.name] = [*(text + mark for text in cells), *entropies]
    return rows


def _markdown(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table in Markdown."""
    head = [corner, *columns], ["---"] * (len(columns) + 1)
    lines = [*head, *([name, *cells] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(line).replace("||", r"\|\|") + " |" for line in lines)

"""Compare runs of `steer` and `rlhf` on one page: final numbers, arguments, curves over each other.

Question: which run reached more reward, a smaller KL or a smaller gap, and is the difference more
than noise?
Printed: the table of final numbers with standard errors. Runs whose arguments and input files agree
but for the seed are a group, with a standard error over seeds. Written: `report.html`,
self-contained, with curves that show their numbers under the pointer and zoom, and each figure as
SVG, PNG and PDF.

    python -m experiments.compare runs/steer-20250101-120000 runs/steer-20250101-130000
    python -m experiments.compare runs/steer-* --smooth 1
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.compare.curves import chart_data, curves, figure_of, metric_names
from experiments.compare.runs import Group, grouped, read_run, short_names
from experiments.compare.tables import difference_rows, label_lines, notes, number_rows
from experiments.shared import argument_types as types
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import save
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.tables import text_table

TITLE = "Comparison of runs"


@dataclass(frozen=True)
class Compare(Arguments):
    """Compare runs on one page, with figures for a paper."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders, also of interrupted runs and of `--sample`."""
    smooth: types.Count = 10
    """Number of steps behind each point of a curve, a running mean. 1 shows every step."""
    out: types.Out = Path("runs")
    """Parent folder of the folder with page and figures."""


def main(args: Compare) -> RunFolder:
    """Read the runs, then print the table and write the page and the figures."""
    if not args.runs:
        raise SystemExit("RUNS is empty: expected one run folder or more")
    places = [path.resolve() for path in args.runs]
    if len(set(places)) < len(places):
        raise SystemExit("RUNS names a folder twice: leave one of them out")
    runs = [read_run(path, name) for path, name in zip(places, short_names(places), strict=True)]
    groups = grouped(runs)
    head, *rows = numbers = number_rows(groups)
    print(text_table(head[1:], {first: cells for first, *cells in rows}))
    print(*("", *label_lines(groups), *notes(runs)), sep="\n")
    with new_folder(args, "compare") as folder:
        charts = write_figures(groups, folder, args.smooth)
        tables = {"numbers": numbers, "notes": notes(runs), "differences": difference_rows(groups)}
        figures = {"labels": [group.label for group in groups], "charts": charts}
        folder.write_page("compare/page.html", TITLE, **tables, **figures, window=args.smooth)
        place = f"; {2 * len(charts)} figures are in {folder.path / 'figures'}" if charts else ""
        print(f"\nOpen {folder.report}{place}.")
    return folder


def write_figures(groups: list[Group], folder: RunFolder, window: int) -> list[dict]:
    """Write a figure for each metric, and return the charts as data."""
    (folder.path / "figures").mkdir()
    labels, charts = [group.label for group in groups], []
    for name in metric_names(groups):
        if drawn := curves(groups, name, window):
            file = folder.path / "figures" / f"{name.replace('/', '_')}.svg"
            save(figure_of(drawn, name, labels, window), file)
            charts.append(chart_data(drawn, name, labels))
    return charts


if __name__ == "__main__":
    run_script(main, Compare)

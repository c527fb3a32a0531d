"""The page of a comparison: tables, and charts that a script of the page draws from data."""

import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from experiments.compare.runs import Group
from experiments.compare.tables import difference_rows, notes, number_rows
from experiments.shared.run_folder import element

HERE = Path(__file__).parent
HINT = (
    "Move the pointer over a chart for the numbers; drag to zoom, double-click to zoom out. With "
    "the keyboard: left and right move the line, plus and minus zoom, Escape zooms out. Bands are "
    "one standard error over seeds. "
)
SMOOTHED = "Each point is the mean of its step and the {} before it, or of as many as there are."
WITHOUT_SCRIPT = "The charts need JavaScript. The folder `figures` has them as SVG, PNG and PDF."


def page_parts(groups: Sequence[Group], data: str, window: int) -> list[str]:
    """Parts of the page; `data` is JSON of labels and charts, for the script.

    `window` is the number of steps behind each point of a curve.
    """
    style, script = ((HERE / name).read_text("utf-8") for name in ("page.css", "charts.js"))
    ticks = files("experiments.shared").joinpath("ticks.js").read_text("utf-8")
    safe = data.replace("<", "\\u003c")
    runs = [run for group in groups for run in group.runs]
    head, *rows = number_rows(groups)
    parts = [
        f"<style>{style}</style>",
        element("h2", "Final numbers"),
        element("p", "Nats per response, but for E[r]; each number has its standard error."),
        table(head, rows),
        *(element("p", note, "note") for note in notes(runs)),
    ]
    head, *rows = difference_rows(groups)
    if rows:
        parts += [element("h2", "Differences of arguments"), table(head, rows)]
    return [
        *parts,
        element("h2", "Curves"),
        element("p", HINT + (SMOOTHED.format(window - 1) if window > 1 else "")),
        '<div id="legend" role="group" aria-label="Runs, shown or hidden"></div>',
        '<div id="charts"></div>',
        f"<noscript>{element('p', WITHOUT_SCRIPT)}</noscript>",
        f'<script type="application/json" id="data">{safe}</script>',
        f'<script>"use strict";\n{ticks}\n{script}</script>',
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML table that scrolls if it is wide; rows of means are set apart."""
    titles = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{titles}</tr>"]
    for first, *others in rows:
        kind = ' class="mean"' if first.startswith("mean: ") else ""
        cells = "".join(element("td", cell) for cell in others)
        lines.append(f'<tr{kind}><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>'

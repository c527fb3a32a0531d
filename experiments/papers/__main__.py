"""Papers: a command for each claim of the literature, and the page of verdicts, `docs/papers.md`.

Question: which claims of the literature hold, by arithmetic on worlds that can be listed and by
short fits?
Printed: the verdict on each claim as its command ends. Written: the findings of every command, in
`docs/papers.json`, and the page from these findings.

    python -m experiments.papers
    python -m experiments.papers --only dera ipo
    python -m experiments.papers --run none
"""

from dataclasses import dataclass
from typing import Literal

from experiments.papers.page import page, verdict
from experiments.papers.paper import PAPERS
from experiments.papers.runner import ROOT, measure, read, write
from experiments.shared.argument_types import chosen
from experiments.shared.command_line import Arguments, run_script
from model.common.files import write_atomically

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Papers(Arguments):
    """Test the claims of papers, and write the page of verdicts."""

    only: tuple[str, ...] = ()
    """Papers by key. Default: all."""
    run: Literal["all", "missing", "none"] = "all"
    """Commands to run: all of the papers, those without a measurement, or none."""


def main(args: Papers) -> None:
    record = DOCS / "papers.json"
    done: set[str] = set()
    for key in chosen(args.only, PAPERS):
        paper, measurements = PAPERS[key], read(record)
        is_due = {"all": True, "missing": paper.command not in measurements, "none": False}
        if is_due[args.run] and paper.command not in done:
            measurements[paper.command] = measure(paper)
            write(record, read(record) | {paper.command: measurements[paper.command]})
            done.add(paper.command)
        if paper.command in measurements:
            measurement = measurements[paper.command]
            word = verdict(paper, measurement.findings).value
            print(f"{key}: {word}, {measurement.seconds:.0f} s", flush=True)
    commands = {paper.command for paper in PAPERS.values()}
    measurements = {name: value for name, value in read(record).items() if name in commands}
    if lacking := commands - measurements.keys():
        print(f"No page, since there is no measurement of: {', '.join(sorted(lacking))}")
        return
    write(record, measurements)
    write_atomically(DOCS / "papers.md", page(PAPERS, measurements))
    print(f"Written: {DOCS / 'papers.md'}")


if __name__ == "__main__":
    run_script(main, Papers)

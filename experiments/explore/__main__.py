"""Write the pages that run in a browser: which posterior, and how does inference reach it?

Each page is one file without a network, with all responses of a small world, their log p0 and their
rewards. The browser computes every number on the page from them. Written: `docs/explore/*.html`.
Printed: the size of each page, and the largest difference of its exact numbers from `Enumeration`.

    python -m experiments.explore
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.explore.learned import learned_reviews
from experiments.explore.pages import PAGES, page_text
from experiments.explore.world import World, largest_error, modes, reviews
from experiments.shared.argument_types import Out, Threads
from experiments.shared.claims import Finding, within
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import text_table

TOLERANCE = 1e-6
MOST_BYTES = 200_000
WORLDS: dict[str, Callable[[], World]] = {
    "reviews": reviews,
    "modes": modes,
    "learned": learned_reviews,
}
"""Worlds by the name that a page has."""


@dataclass(frozen=True)
class Explore(Arguments):
    """Write the pages that run in a browser."""

    threads: ClassVar[Threads] = 1
    out: Out = Path("docs/explore")
    """Folder of the pages."""


def main(args: Explore) -> list[Finding]:
    worlds = {name: world().data() for name, world in WORLDS.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    rows, findings = {}, []
    for name, page in PAGES.items():
        data = worlds[page.world]
        text = page_text(name, data)
        (args.out / f"{name}.html").write_text(text, encoding="utf-8")
        size, error = len(text.encode()), largest_error(data)
        rows[f"{name}.html"] = [f"{size / 1000:.1f}", f"{error:.1g}"]
        findings += [
            within(f"{name}, bytes", size, below=MOST_BYTES),
            within(f"{name}, difference from Enumeration", error, below=TOLERANCE),
        ]
    print(text_table(["kB", "difference from Enumeration"], rows))
    print(f"Pages: {args.out}")
    return findings


if __name__ == "__main__":
    run_script(main, Explore)

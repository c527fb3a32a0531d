"""Write the data of the pages that run in a browser: which posterior, and how is it reached?

The pages are `docs/explore/*.html`. The data of a page are all responses of a small world, their
log p0 and their rewards; the browser computes every number from them. Written: a script for each
world, `docs/explore/reviews.js` and others. Printed: its size, and the largest difference of its
exact numbers from `Enumeration`.

    python -m experiments.explore
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.explore.learned import learned_reviews
from experiments.explore.world import World, largest_error, modes, reviews
from experiments.shared.argument_types import Out, Threads
from experiments.shared.claims import Finding, within
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import text_table

TOLERANCE = 1e-6
MOST_BYTES = 50_000
WORLDS: dict[str, Callable[[], World]] = {
    "reviews": reviews,
    "modes": modes,
    "learned": learned_reviews,
}
"""Worlds by the name of the file of their data."""


@dataclass(frozen=True)
class Explore(Arguments):
    """Write the data of the pages that run in a browser."""

    threads: ClassVar[Threads] = 1
    out: Out = Path("docs/explore")
    """Folder of the data."""


def main(args: Explore) -> list[Finding]:
    args.out.mkdir(parents=True, exist_ok=True)
    rows, findings = {}, []
    for name, world in WORLDS.items():
        data = world().data()
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        text = f"const DATA = {text};\n"  # a script, which a page loads without a server
        (args.out / f"{name}.js").write_text(text, encoding="utf-8")
        size, error = len(text.encode()), largest_error(data)
        rows[f"{name}.js"] = [f"{size / 1000:.1f}", f"{error:.1g}"]
        findings += [
            within(f"{name}, bytes", size, below=MOST_BYTES),
            within(f"{name}, difference from Enumeration", error, below=TOLERANCE),
        ]
    print(text_table(["kB", "difference from Enumeration"], rows))
    print(f"Data: {args.out}")
    return findings


if __name__ == "__main__":
    run_script(main, Explore)

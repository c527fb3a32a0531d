"""Record of a run: one line of JSON, written as the run ends and read when a run is resumed."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.foreign.design import Cell
from inference import Estimate
from model.common.files import write_atomically

UNKNOWN = Estimate(math.nan, math.nan)


@dataclass(frozen=True)
class Run:
    """Measurements of one run; every number in nats unless a unit is stated.

    Attributes:
        steps: number of steps of the fit.
        prior, before, after: measurements of the prior, of the untrained and of the trained guide,
            by name: `elbo`, `log_z`, `kl_guide_posterior`, `kl_posterior_guide`, `entropy`; and
            `reward`, E[r] in units of the reward. No divergences of the prior, see `start`.
        start: KL(p0 || p*), with log Z as after the fit.
        rise: KL(q || p*) - KL(p0 || p*), which is a difference of two ELBOs without log Z.
        own_rise: KL(q || p*) less that of the untrained guide, which for some guides is no p0.
        share_left: KL(q || p*) / KL(p0 || p*), a ratio.
        change: KL(p* || q) - KL(p* || p0).
        unreliable: reason to distrust an estimate of `after`, by name, see `Diagnostics`. Start,
            share and change depend on the same weights as `kl_guide_posterior`.
        seconds: CPU seconds of the fit, and of the run as a whole.
        note: reason for a missing result; empty otherwise.
    """

    cell: Cell
    seed: int
    steps: int
    prior: dict[str, Estimate] = field(default_factory=dict)
    before: dict[str, Estimate] = field(default_factory=dict)
    after: dict[str, Estimate] = field(default_factory=dict)
    start: Estimate = UNKNOWN
    rise: Estimate = UNKNOWN
    own_rise: Estimate = UNKNOWN
    share_left: Estimate = UNKNOWN
    change: Estimate = UNKNOWN
    unreliable: dict[str, str] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)
    stopped_early: str | None = None
    note: str = ""

    @property
    def key(self) -> tuple[Cell, int, int]:
        """The same key for the same job, and for no other."""
        return self.cell, self.seed, self.steps

    @property
    def is_reliable(self) -> bool:
        """True if start, share and change are reliable."""
        return "kl_guide_posterior" not in self.unreliable

    @property
    def name(self) -> str:
        """Levels of the cell, and the seed."""
        return f"{self.cell.name}, seed {self.seed}"


def read_runs(file: Path) -> list[Run]:
    """Runs in a file of a JSON record a line; removes a line that was cut off from the file."""
    records = list(_whole_records(file.read_text().splitlines() if file.exists() else []))
    write_atomically(file, "".join(json.dumps(record) + "\n" for record in records))
    return [_restored(record) for record in records]


def to_line(run: Run) -> str:
    """A run as a line of JSON, with the levels of its cell by factor."""
    return json.dumps(asdict(run) | {"cell": run.cell._asdict()}) + "\n"


def _whole_records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _restored(record: dict[str, Any]) -> Run:
    for name in ("prior", "before", "after"):
        record[name] = {key: Estimate(*pair) for key, pair in record[name].items()}
    for name in ("start", "rise", "own_rise", "share_left", "change"):
        record[name] = Estimate(*record[name])
    return Run(**record | {"cell": Cell(**record["cell"]), "seconds": tuple(record["seconds"])})

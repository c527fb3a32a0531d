"""Record of a run: one line of JSON, written as the run ends and read when a run is resumed."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from experiments.foreign.design import Cell
from inference import Estimate
from model.common.files import write_atomically

UNKNOWN = Estimate(math.nan, math.nan)


@dataclass(frozen=True)
class Run:
    """Measurements of one run, nats.

    Attributes:
        steps: number of steps of the fit.
        prior, before, after: measurements of the prior, of the untrained and of the trained guide,
            by name: `elbo`, `log_z`, `kl_guide_posterior`, `kl_posterior_guide`, `entropy`,
            `posterior_log_ratio`; and `reward`, E[r]. No divergences of the prior, see `start`.
        warnings: reasons to distrust `kl_guide_posterior` of `after`, and start, share and change,
            which depend on the same weights.
        seconds: CPU seconds of the fit, and of the run as a whole.
        note: reason for a missing result; empty otherwise.
    """

    cell: Cell
    seed: int
    steps: int
    prior: dict[str, Estimate] = field(default_factory=dict)
    before: dict[str, Estimate] = field(default_factory=dict)
    after: dict[str, Estimate] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)
    stopped_early: str | None = None
    note: str = ""

    @property
    def start(self) -> Estimate:
        """KL(p0 || p*), with log Z as after the fit."""
        return self.after.get("log_z", UNKNOWN).minus(self.prior.get("elbo", UNKNOWN))

    @property
    def rise(self) -> Estimate:
        """KL(q || p*) - KL(p0 || p*), which is a difference of two ELBOs without log Z."""
        return self.prior.get("elbo", UNKNOWN).minus(self.after.get("elbo", UNKNOWN))

    @property
    def own_rise(self) -> Estimate:
        """KL(q || p*) less that of the untrained guide, which for some guides is no p0."""
        return self.before.get("elbo", UNKNOWN).minus(self.after.get("elbo", UNKNOWN))

    @property
    def share_left(self) -> Estimate:
        """KL(q || p*) / KL(p0 || p*)."""
        return ratio(self.after.get("kl_guide_posterior", UNKNOWN), self.start)

    @property
    def change(self) -> Estimate:
        """KL(p* || q) - KL(p* || p0)."""
        return self.after.get("posterior_log_ratio", UNKNOWN).times(-1)

    @property
    def key(self) -> tuple[Cell, int, int]:
        """The same key for the same job, and for no other."""
        return self.cell, self.seed, self.steps

    @property
    def is_reliable(self) -> bool:
        """True if start, share and change are reliable."""
        return not self.warnings

    @property
    def name(self) -> str:
        """Levels of the cell, and the seed."""
        return f"{self.cell.name}, seed {self.seed}"


def ratio(value: Estimate, base: Estimate) -> Estimate:
    """Ratio of two estimates; the standard error is an upper bound if they correlate positively."""
    share = value.value / base.value if base.value else math.nan
    error = math.hypot(value.standard_error, share * base.standard_error)
    return Estimate(share, error / abs(base.value) if base.value else math.nan)


def read_runs(file: Path) -> list[Run]:
    """Runs in a file of a JSON record a line; removes a line that was cut off from the file."""
    records = list(_whole_records(file.read_text().splitlines() if file.exists() else []))
    for record in records:
        check_names(file, record, (each.name for each in fields(Run)))
        check_names(file, record["cell"], Cell._fields)
    write_atomically(file, "".join(json.dumps(record) + "\n" for record in records))
    return [_restored(record) for record in records]


def to_line(run: Run) -> str:
    """A run as a line of JSON, with the levels of its cell by factor."""
    return json.dumps(asdict(run) | {"cell": run.cell._asdict()}) + "\n"


def check_names(file: Path, names: Iterable[str], expected: Iterable[str]) -> None:
    """Exit if a file of the run to resume has other names than this version writes."""
    if other := sorted(set(names) ^ set(expected)):
        problem = f"expected the names of this version, which differ in {', '.join(other)}"
        raise SystemExit(f"--resume {file.parent}: {file.name}: {problem}. Start the run again")


def _whole_records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _restored(record: dict[str, Any]) -> Run:
    for name in ("prior", "before", "after"):
        record[name] = {key: Estimate(*pair) for key, pair in record[name].items()}
    return Run(**record | {"cell": Cell(**record["cell"]), "seconds": tuple(record["seconds"])})

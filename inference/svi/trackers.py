"""Trackers of experiments, fed with the metrics of a fit: Trackio, TensorBoard, Weights & Biases.

    with Trackers(["tensorboard"], "my-run", folder="runs/my-run") as trackers:
        fit(model, guide, prompts, num_steps=100, on_step=trackers)

A failure of a tracker during the run warns once. The run goes on without that tracker.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from inference.svi.response_metrics import Metrics
from model.common.texts import table_cell

PROJECT = "elbo-rl"
Rows = Sequence[Sequence[Any]]


class Tracker(Protocol):
    """A place for the numbers of one run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the metrics of a step, all of them finite."""

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """Add a table, such as completions with their rewards."""

    def close(self) -> None:
        """Write all that is buffered, and end the run."""


class Run(NamedTuple):
    """Description of a run for a tracker."""

    name: str  # name of the run, by which a resume finds the run again
    folder: Path  # folder of the run, for trackers that write files there
    config: Mapping[str, Any]  # arguments of the run, by name
    is_resumed: bool  # True if the run goes on after an interrupt


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / "tensorboard"
        self._purges, self._make = run.is_resumed, SummaryWriter
        self._writer: Any = None

    def _open(self, step: int) -> Any:
        if self._writer is None:  # a resume replaces the steps after its checkpoint
            purge = {"purge_step": step} if self._purges else {}
            self._writer = self._make(str(self._folder), **purge)
        return self._writer

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._open(step).add_scalar(name, value, step)

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(table_cell, line))} |" for line in lines)
        self._open(step).add_text(name, text, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Logger:
    """A package with the interface of Weights & Biases.

    Args:
        package: name of the package.
        run: the run.
        options: options of the package's own, for its `init`.
    """

    def __init__(self, package: str, run: Run, **options: Any) -> None:
        self._package, resume = import_module(package), "allow" if run.is_resumed else "never"
        names = {"project": PROJECT, "name": run.name, "resume": resume}
        self._package.init(config=dict(run.config), **names, **options)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._package.log(dict(metrics), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        table = self._package.Table(columns=list(columns), data=[list(row) for row in rows])
        self._package.log({name: table}, step=step)

    def close(self) -> None:
        self._package.finish()


class TrackerEntry(NamedTuple):
    """Entry of the registry: the class, the package that it needs, and a line of help."""

    make: Callable[[Run], Tracker]
    package: str
    summary: str


TRACKERS: dict[str, TrackerEntry] = {
    "trackio": TrackerEntry(
        lambda run: Logger("trackio", run, embed=False),
        "trackio",
        "Trackio's database on this machine",
    ),
    "tensorboard": TrackerEntry(TensorBoard, "tensorboard", "event files in RUN/tensorboard"),
    "wandb": TrackerEntry(
        lambda run: Logger("wandb", run, id=re.sub(r"[^\w-]", "-", run.name)),
        "wandb",
        "Weights & Biases",
    ),
}
"""Trackers by name. `trackio show` reads the database of Trackio; `WANDB_MODE=offline` keeps a run
of Weights & Biases on this machine."""


class MissingTrackerError(ValueError):
    """The package of a tracker is not installed."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise a `MissingTrackerError` if the package of a tracker is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"tracker {name!r} is unknown, expected one of {', '.join(TRACKERS)}")
        package = TRACKERS[name].package
        if find_spec(package) is None:
            fix = f"pip install 'elbo-rl[{name}]'"
            raise MissingTrackerError(f"{name}: the package {package} is not installed: {fix}")


class Trackers:
    """Several trackers as one function of the metrics of a step, for `fit(on_step=...)`.

    Args:
        names: names in `TRACKERS`.
        name: name of the run.
        folder: folder of the run.
        config: arguments of the run, by name.
        is_resumed: True to go on with the run of that name where the tracker can.

    Raises:
        MissingTrackerError: if the package of a tracker is not installed.
    """

    def __init__(
        self,
        names: Sequence[str],
        name: str,
        *,
        folder: str | Path,
        config: Mapping[str, Any] | None = None,
        is_resumed: bool = False,
    ) -> None:
        check_trackers(names)
        self._run = Run(name, Path(folder), config or {}, is_resumed)
        self._names, self._trackers, self._step = [*dict.fromkeys(names)], dict[str, Tracker](), 0
        self._each(lambda each: self._trackers.update({each: TRACKERS[each].make(self._run)}))

    def _each(self, call: Callable[[str], object]) -> None:
        """Call a function of the name of each tracker. A tracker that fails gets no more."""
        for name in [*self._names]:
            try:
                call(name)
            except Exception as error:  # a tracker can raise anything, and the run is worth more
                self._names.remove(name)
                problem = f"the tracker {name} failed, and gets no more of the run"
                warnings.warn(f"{problem}: {type(error).__name__}: {error}", stacklevel=3)

    def __call__(self, metrics: Metrics) -> None:
        """Pass on the metrics of a step that are finite, with `step` as the axis."""
        self._step = int(metrics["step"])
        pairs = [(name, value) for name, value in metrics.items() if name != "step"]
        finite = {name: value for name, value in pairs if math.isfinite(value)}
        self._each(lambda each: self._trackers[each].log(finite, self._step))

    def table(self, name: str, columns: Sequence[str], rows: Rows) -> None:
        """Pass on a table, at the last step."""
        self._each(lambda each: self._trackers[each].table(name, columns, rows, self._step))

    def close(self) -> None:
        """End the run in all trackers."""
        self._each(lambda each: self._trackers[each].close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

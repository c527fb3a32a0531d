"""Runs as read from their folders, and groups of runs that differ in the seed alone."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.shared.metrics_file import read_metrics, recent
from experiments.shared.run_folder import RunFolder
from experiments.shared.tables import mean_and_error
from inference import Estimate
from model.common.files import text_digest

Metrics = Sequence[Mapping[str, float]]
QUANTITIES = {
    "E[r]": ("reward", "reward"),
    "KL(q || p0)": ("kl_guide_prior", "kl"),
    "ELBO": ("elbo", "elbo"),
    "KL(q || p*)": ("kl_guide_posterior", ""),
    "KL(p* || q)": ("kl_posterior_guide", ""),
    "log Z": ("log_z", ""),
    "entropy": ("entropy", "entropy"),
}
"""Columns: a name in `measurements.json`, and the metric in its place if a run has no such file."""
NOT_COMPARED = {
    *("seed", "out", "threads", "device", "config", "resume", "complete", "report_to"),
    *("checkpoint_every", "divide", "shard", "gather_draws", "merge"),
}
"""Arguments in which the runs of a group may differ."""
_FOLDERS = re.compile(r"(^|:)[^:\n]*/")
"""Folders of a path that begins a text, or follows a colon."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: name of the run folder.
        arguments: arguments by name, files without their folders, and digests of the files and
            networks that they name; empty without `arguments.json`.
        unused: names of arguments without effect beside the others; None in an older record.
        versions: versions of packages.
        metrics: records of the steps so far.
        numbers: estimates by column; of an interrupted run from the last steps.
        is_measured: True if the run ended with its measurements.
        warnings: reasons to distrust a number, by column.
    """

    name: str
    arguments: Mapping[str, Any]
    unused: Sequence[str] | None
    versions: Mapping[str, str]
    metrics: Metrics
    numbers: Mapping[str, Estimate]
    is_measured: bool
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Number of the last step; 0 without one."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0


@dataclass(frozen=True)
class Group:
    """Runs whose arguments and inputs agree but for the seed, under a label."""

    label: str
    runs: Sequence[Run]

    @property
    def by_seed(self) -> list[Run]:
        """The last run of each seed, a measured one if there is one: a run again is no new draw."""
        ordered = sorted(self.runs, key=lambda run: run.is_measured)
        return [*{run.arguments.get("seed", run.name): run for run in ordered}.values()]

    @property
    def averaged(self) -> list[Run]:
        """Runs behind the means of the group: the measured seeds, or all if none is measured."""
        return [run for run in self.by_seed if run.is_measured] or self.by_seed

    def mean(self, column: str) -> Estimate | None:
        """Mean over runs with the standard error over seeds; None if a run lacks the number."""
        runs = self.averaged
        values = [run.numbers[column].value for run in runs if column in run.numbers]
        if len(values) < len(runs):
            return None
        return mean_and_error([{column: value} for value in values], column)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest end of each path that is the end of no other path."""

    def is_unique(end: Path) -> bool:
        return sum(path.parts[-len(end.parts) :] == end.parts for path in paths) == 1

    ends = ([Path(*path.parts[-n:]) for n in range(1, len(path.parts) + 1)] for path in paths)
    return [str(next(filter(is_unique, several))) for several in ends]


def read_run(path: Path, name: str) -> Run:
    """Read a run folder, also of an interrupted run; exit if the folder is none of a run."""
    folder = RunFolder(path)
    record, measured = _read(folder.arguments), _read(folder.measurements)
    metrics = read_metrics(folder.metrics)
    if not record and not metrics:
        expected = f"expected a run folder with {folder.arguments.name} or {folder.metrics.name}"
        raise SystemExit(f"{path}: {expected}")
    numbers = _measured(measured)
    if not measured and metrics:
        names = {column: name for column, (_, name) in QUANTITIES.items() if name in metrics[-1]}
        numbers = {column: recent(metrics, name) for column, name in names.items()}
    arguments, inputs = record.get("arguments", {}), record.get("inputs", {})
    arguments = _without_folders(arguments, inputs) | _contents(inputs)
    versions, warnings = record.get("versions", {}), _warnings(measured)
    unused, is_measured = record.get("unused"), bool(measured)
    return Run(name, arguments, unused, versions, metrics, numbers, is_measured, warnings)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups of the runs, labelled by the arguments in which the groups differ."""
    by_arguments: dict[str, list[Run]] = {}
    for run in alike(runs):
        by_arguments.setdefault(json.dumps(relevant(run), sort_keys=True), []).append(run)
    groups = list(by_arguments.values())
    names = list(differences([group[0] for group in groups]))
    labels = []
    for group in groups:
        values = relevant(group[0])
        parts = [f"{name} {shown(values.get(name))}" for name in names if name in values]
        labels.append(", ".join(parts) or group[0].name)
    unique = len(set(labels)) == len(labels)
    pairs = zip(labels, groups, strict=True)
    return [Group(label if unique else f"{label} ({g[0].name})", g) for label, g in pairs]


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Values of each argument in which runs that have it differ, in the order of the runs."""
    runs = alike(runs)
    every = [relevant(run) for run in runs if run.arguments]
    names = dict.fromkeys(name for values in every for name in values)
    rows = {name: [relevant(run).get(name) for run in runs] for name in names}
    known = {name: [values[name] for values in every if name in values] for name in names}
    return {n: row for n, row in rows.items() if any(v != known[n][0] for v in known[n])}


def missing_metrics(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Metrics that other runs have, by the name of the run that lacks them."""
    with_steps = [run for run in runs if run.metrics]
    every = dict.fromkeys(name for run in with_steps for name in run.metrics[-1])
    lacking = {run.name: [n for n in every if n not in run.metrics[-1]] for run in with_steps}
    return {name: metrics for name, metrics in lacking.items() if metrics}


def shown(value: Any) -> str:
    """A value of an argument as text."""
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def alike(runs: Sequence[Run]) -> Sequence[Run]:
    """The runs; if the record of one has no `unused`, with all of their arguments compared."""
    is_known = all(run.unused is not None for run in runs if run.arguments)
    return runs if is_known else [replace(run, unused=None) for run in runs]


def relevant(run: Run) -> dict[str, Any]:
    """Arguments that make a difference, the options of guides by dotted names."""
    left_out = NOT_COMPARED | set(run.unused or ())
    arguments = {name: v for name, v in run.arguments.items() if name not in left_out}
    options = arguments.pop("options", None) or {}
    guide = str(arguments.get("guide", "")).replace("-", "_")
    own = options.get(guide, {}) if isinstance(options, dict) else {}
    return arguments | {f"{guide}.{name}": value for name, value in own.items()}


def _read(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if the file is missing or damaged."""
    content = None
    with suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
    return content if isinstance(content, dict) else {}


def _without_folders(arguments: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with files by their names: the folder of a file with a digest has no effect."""
    named = {option.partition(" ")[2] for option in inputs}

    def shortened(value: Any) -> Any:
        if isinstance(value, list):
            return [shortened(item) for item in value]
        is_file = isinstance(value, str) and value in named
        return _FOLDERS.sub(r"\1", value) if is_file else value

    return {name: shortened(value) for name, value in arguments.items()}


def _contents(inputs: Mapping[str, Any]) -> dict[str, list[str]]:
    """Short digests of the files and networks that options name, in whatever folder.

    Options that name files of one name have a list, in their order.
    """
    digests: dict[str, list[str]] = {}
    for option, files in inputs.items():
        name = f"content of {option.replace('/', ' ').split()[0]} {Path(option).name.split()[-1]}"
        digest = text_digest(json.dumps(files, sort_keys=True))[:8]
        digests.setdefault(name, []).append(digest)
    return digests


def _warnings(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Reasons to distrust a number, by column, from `measurements.json`; older runs have one."""
    numbers = record.get("guide") or record.get("sample", {})
    entries = {column: numbers.get(name) or {} for column, (name, _) in QUANTITIES.items()}
    older = {column: [e["reason"]] for column, e in entries.items() if "reason" in e}
    return {column: e.get("warnings", []) for column, e in entries.items()} | older


def _measured(record: Mapping[str, Any]) -> dict[str, Estimate]:
    """Estimates by column from `measurements.json`."""
    numbers, every = {}, record.get("guide") or record.get("sample", {})
    for column, (name, _) in QUANTITIES.items():
        entry = every.get(name)
        if entry is not None:
            error = float(entry.get("standard_error", "nan"))
            numbers[column] = Estimate(float(entry["value"]), error)
    return numbers

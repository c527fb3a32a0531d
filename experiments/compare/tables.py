"""Tables of a comparison: final numbers, differences of arguments; and sentences on what lacks."""

from collections.abc import Sequence
from itertools import chain

from experiments.compare.runs import (
    QUANTITIES,
    Group,
    Run,
    differences,
    grouped,
    missing_metrics,
    shown,
)
from experiments.shared.metrics_file import WINDOW
from inference import Estimate

MARK, UNRELIABLE = " †", " (?)"
"""Ends of a number of an interrupted run, a mean over its last steps; of an unreliable number."""
Rows = list[tuple[str, ...]]
REWARD = {"reward", "content of --reward"}
FILES = ("prior", "constraint", "factor", "moment", "prompts-file", "dataset")
POSTERIOR = {
    *("prior", "constraint", "factor", "moment", "penalty", "beta", "kl_budget", "min_reward"),
    *("max_new_tokens", "temperature", "prompts", "measured_prompts", "prompt_column", "limit"),
    *("max_prompt_tokens", "system"),
    *(f"content of --{name}" for name in FILES),
    *REWARD,
}
"""Arguments and inputs behind the posterior, and behind the reward: up to the name of a file."""


def number_rows(groups: Sequence[Group]) -> Rows:
    """Head, and a row for each run and for each group of several seeds."""
    rows: Rows = [("run", "seed", "steps", *QUANTITIES)]
    for group in groups:
        for run in group.runs:
            cells = [_cell(run.numbers.get(column), _mark(column, run)) for column in QUANTITIES]
            seed = shown(run.arguments.get("seed", "-"))
            rows.append((run.name, seed, str(run.num_steps), *cells))
        if len(averaged := group.averaged) > 1:
            means = [_cell(group.mean(column), _mark(column, *averaged)) for column in QUANTITIES]
            rows.append((f"mean: {group.label}", f"{len(averaged)} runs", "", *means))
    return rows


def difference_rows(groups: Sequence[Group]) -> Rows:
    """Head, and a row for each argument in which the groups differ."""
    values = differences([group.runs[0] for group in groups])
    rows: Rows = [("argument", *(_names(group) for group in groups))]
    return [*rows, *((name, *map(shown, row)) for name, row in values.items())]


def label_lines(groups: Sequence[Group]) -> list[str]:
    """Line with the own arguments of each group, if there are several."""
    return [f"{_names(group)}: {group.label}" for group in groups] if len(groups) > 1 else []


def notes(runs: Sequence[Run]) -> list[str]:
    """Sentences on other posteriors, interrupted runs, metrics that a run lacks, other versions."""
    sentences = _posteriors(runs)
    for run in runs:
        if not run.is_measured:
            state = f"{run.name} has no measurements, only {run.num_steps} steps"
            window = f"its numbers are means over the last {min(WINDOW, run.num_steps)} steps{MARK}"
            sentences.append(f"{state}: {window if run.metrics else 'it has no numbers'}.")
        for warning in dict.fromkeys(chain(*run.warnings.values())):
            columns = ", ".join(c for c, others in run.warnings.items() if warning in others)
            sentences.append(f"{run.name}: {warning}: {columns} may be far off{UNRELIABLE}.")
        if not run.arguments:
            sentences.append(f"{run.name} has no arguments that can be read.")
        elif run.unused is None:
            state = "is of an earlier version, without a record of arguments that had no effect"
            sentences.append(f"{run.name} {state}: all arguments of all runs are compared.")
    for name, metrics in missing_metrics(runs).items():
        reason = "an earlier version or another script wrote it, or its model has no rewards"
        sentences.append(f"{name} lacks the metrics {', '.join(metrics)}: {reason}.")
    packages = dict.fromkeys(package for run in runs for package in run.versions)
    for package in packages:
        numbers = {run.versions[package]: run.name for run in runs if package in run.versions}
        if len(numbers) > 1:
            sentences.append(
                f"The runs are of different versions of {package}: {', '.join(numbers)}."
            )
    for group in grouped(runs):
        if again := [run.name for run in group.runs if run not in group.by_seed]:
            reason = "a later run, or one with measurements, has the same arguments and seed"
            sentences.append(f"No mean counts {', '.join(again)}: {reason}.")
    return sentences


def _posteriors(runs: Sequence[Run]) -> list[str]:
    """Sentence on the numbers that do not rank runs of different posteriors."""
    differing = dict.fromkeys(
        name if name in POSTERIOR else name.rpartition(" ")[0] for name in differences(runs)
    )
    if not (names := [name for name in differing if name in POSTERIOR]):
        return []
    numbers = "E[r], ELBO" if REWARD & {*names} else "ELBO"
    return [
        f"The runs have different posteriors ({', '.join(names)}): {numbers}, log Z and the "
        "divergences from p* do not rank their guides."
    ]


def _names(group: Group) -> str:
    first = group.runs[0].name
    return first if len(group.runs) == 1 else f"{first} and {len(group.runs) - 1} more"


def _mark(column: str, *runs: Run) -> str:
    """Mark of a number from runs that are all measured, or all interrupted."""
    if not runs[0].is_measured:
        return MARK
    return UNRELIABLE if any(run.warnings.get(column) for run in runs) else ""


def _cell(estimate: Estimate | None, mark: str) -> str:
    return "-" if estimate is None else f"{estimate}{mark}"

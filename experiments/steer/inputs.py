"""Inputs of a run: files named by arguments. A resume lists the files and refuses changed files."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import model
from experiments.shared import command_line
from experiments.shared.refusals import blamed
from model.common.files import file_digest
from model.common.input_files import checkpoint_files
from model.data.reading import source_files
from model.prior.named_priors import prior_files

HERE = Path(model.__file__).parent
"""Folder of the files that come with the project."""
MISSING = "missing"
Digests = dict[str, dict[str, str]]


class Input(NamedTuple):
    """Files that an argument names, by a name that holds on every machine.

    `option` is the argument, as on the command line; `runs` is True for code, False for data.
    """

    option: str
    files: dict[str, Path]
    runs: bool = False


FILES_OF: dict[str, Callable[[Any], dict[str, Path]]] = {
    "prior": prior_files,
    "student": prior_files,
    "prompts_file": lambda path: {path.name: path},
    "dataset": source_files,
    "proposal": checkpoint_files,
}
"""Functions from the value of an argument to the files that the value names, by argument."""


def inputs_of(args: Any) -> list[Input]:
    """Files that the arguments of a run name."""
    inputs = []
    for name, files_of in FILES_OF.items():
        if (value := getattr(args, name)) is not None:
            where = f"{command_line.option(name)} {value}"
            with blamed(where):
                inputs.append(Input(where, files_of(value)))
    for choice in args.choices:
        entry = choice.entry
        if entry.files is not None:
            files = entry.files(choice.argument)
            inputs.append(Input(f"{choice.option} {choice.text}", files, entry.runs))
    return inputs


def digests_of(inputs: Iterable[Input]) -> Digests:
    """SHA-256 of every file, by option and name."""
    digests: Digests = {}
    for option, files, _ in inputs:
        each = {name: path.is_file() and file_digest(path) for name, path in files.items()}
        digests[option] = {name: digest or MISSING for name, digest in each.items()}
    return digests


def check_unchanged(saved: Digests, now: Digests) -> None:
    """Exit with the first option whose files differ from those of the run."""
    for option in dict.fromkeys([*saved, *now]):
        before, after = saved.get(option, {}), now.get(option, {})
        names = sorted(before.keys() | after.keys())
        changed = [name for name in names if before.get(name) != after.get(name)]
        if changed and before and all(after.get(name, MISSING) == MISSING for name in before):
            fix = (
                f"looked up from {Path.cwd()}: go where the run was started, or put the files back"
            )
            problem = f"the files that the run was made with are missing, first {changed[0]}"
            raise SystemExit(f"{option}: {problem}. A relative path is {fix}")
        if changed:
            raise SystemExit(
                f"{option}: {', '.join(changed[:4])} changed since the run was made, and a resume "
                "would mix two problems. Put back what was there, or start another run"
            )


def print_inputs(inputs: Iterable[Input], folder: Path) -> None:
    """Print the code that will run, and the data that will be loaded, from outside a run folder."""
    for entry in inputs:
        outside = [path for path in entry.files.values() if HERE not in path.parents]
        places = {str(path if entry.runs else path.parent) for path in outside}
        if places or not entry.files:
            verb = "runs" if entry.runs else "loads"
            where = ", ".join(sorted(places)) or "what is not in a folder"
            print(f"{folder} names {entry.option}: {verb} {where}")

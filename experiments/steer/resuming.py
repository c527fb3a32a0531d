"""Going on with a run: with its own arguments, or more steps, and with the files that the run was made with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from experiments.shared.command_line import option
from experiments.shared.run_folder import RunFolder
from experiments.steer.inputs import Input, check_unchanged, digests_of, print_inputs
from inference.svi.checkpoint.folder_lock import locked
from model.common.digests import delete_unfinished

OF_THE_LINE = {"resume", "trust_remote_code", "complete"}
"""Fields that a run does not keep."""
MAY_BE_MISSING = OF_THE_LINE | {"options"}


def check_given(given: Any, own: Any, default: Any | None = None) -> None:
    """Exit at the first argument that is not the run's own; more steps are allowed.

    Args:
        given: the arguments beside `--resume`.
        own: those of the run.
        default: what counts as not given; None if `given` differs from the run's own only where something was given.
    """
    for name, ours, theirs, unset in _values(given, own, default):
        if (
            ours == theirs
            or (default is not None and ours == unset)
            or (name == "steps" and ours > theirs)
        ):
            continue
        raise SystemExit(
            f"{option(name)} is given with --resume: {_shown(ours)}, where the run has {_shown(theirs)}. A run goes on with "
            "its own arguments, and more --steps if you like: leave it out, or start another run"
        )


def check_fields(args: Any, saved: Mapping[str, Any]) -> None:
    """Exit if what was saved are no arguments of this script, whose values are what JSON makes of them."""
    default = {field.name: getattr(type(args), field.name, None) for field in fields(args)}
    where = f"--resume {args.resume}: {RunFolder(args.resume).arguments.name}"
    if odd := sorted(saved.keys() - default.keys()):
        raise SystemExit(
            f"{where} has {odd[0]!r}, expected the arguments of this script: is it the run of another?"
        )
    if missing := sorted(default.keys() - saved.keys() - MAY_BE_MISSING):
        raise SystemExit(
            f"{where} lacks {missing[0]!r}, expected the arguments of this script: is it the run of another?"
        )
    for name, value in saved.items():
        if isinstance(default[name], tuple) and not isinstance(value, list | tuple):
            raise SystemExit(f"{where} has {name!r} {value!r}, expected a list")
        if isinstance(default[name], Path) and not isinstance(value, str | Path):
            raise SystemExit(f"{where} has {name!r} {value!r}, expected a path")


def check_inputs(folder: RunFolder, inputs: Iterable[Input]) -> None:
    """Say what will be run or loaded from outside the folder; exit if it is not what the run was made with, or is a link."""
    for path in sorted(folder.path.iterdir()):
        if path.is_symlink():
            raise SystemExit(
                f"{path} is a link, which is not followed: put what it stands for in its place"
            )
    print_inputs(inputs, folder.path)
    check_unchanged(folder.read_record()["inputs"], digests_of(inputs))


@contextmanager
def old_folder(args: Any, path: Path, inputs: Iterable[Input]) -> Iterator[RunFolder]:
    """The folder of a run to go on with, in which nobody else works. Its arguments are written anew for more steps."""
    folder = RunFolder(path)
    with locked(path):
        delete_unfinished(path)
        if folder.read_arguments()["steps"] != args.steps:
            folder.write_arguments(replace(args, resume=None, complete=False), digests_of(inputs))
        yield folder


def _values(
    given: Any, own: Any, default: Any | None, prefix: str = ""
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, value given, the run's own and the default of every field, those of options of guides among them."""
    for field in fields(given):
        if field.name in OF_THE_LINE:
            continue
        ours, theirs, unset = (getattr(one, field.name, None) for one in (given, own, default))
        if is_dataclass(ours):
            yield from _values(
                ours,
                theirs,
                unset,
                f"{prefix}{field.name}." if prefix or field.name != "options" else "",
            )
        else:
            yield f"{prefix}{field.name}", ours, theirs, unset


def _shown(value: Any) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)

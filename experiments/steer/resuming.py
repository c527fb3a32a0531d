"""Resume of a run: its own arguments, or more steps, and the files that the run was made with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from experiments.shared.command_line import option
from experiments.shared.run_folder import RunFolder
from experiments.steer.guide_options import restored_options
from experiments.steer.inputs import Input, check_unchanged, digests_of, print_inputs
from inference.svi.checkpoint.folder import has_checkpoint
from inference.svi.checkpoint.folder_lock import locked
from model.common.digests import delete_unfinished

UNSAVED = {"resume", "trust_remote_code", "complete"}
"""Fields that come from the command line alone."""


def own_arguments(args: Any) -> Any:
    """Arguments of the run that `args.resume` names, with more steps if more are given."""
    own = restored(args, RunFolder(args.resume).read_arguments())
    default = type(args)()
    check_given(args, own, None if args.complete else default)
    has_steps = args.complete or args.steps != default.steps
    return replace(own, steps=args.steps) if has_steps else own


def restored(args: Any, saved: dict[str, Any]) -> Any:
    """Arguments that a run folder has saved; exits if they are of another script."""
    check_fields(args, saved)
    own = {name: value for name, value in saved.items() if name not in UNSAVED}
    for name, value in own.items():
        if isinstance(value, list):
            own[name] = tuple(value)
        elif name in {"prompts_file", "out", "proposal"} and value is not None:
            own[name] = Path(value)
    own["options"] = restored_options(saved["options"])
    return replace(args, **own)


def check_given(given: Any, own: Any, default: Any | None = None) -> None:
    """Exit at the first argument that differs from the run's own; more steps are allowed.

    Args:
        given: arguments beside `--resume`.
        own: arguments of the run.
        default: arguments that count as not given; None if every difference was given.
    """
    for name, value, run_value, unset in _values(given, own, default):
        is_unset = default is not None and value == unset
        if value == run_value or is_unset or (name == "steps" and value > run_value):
            continue
        raise SystemExit(
            f"{option(name)} is given with --resume: {_shown(value)}, where the run has "
            f"{_shown(run_value)}. A resume takes the run's own arguments, and more --steps if you "
            "like: leave it out, or start another run"
        )


def check_fields(args: Any, saved: Mapping[str, Any]) -> None:
    """Exit if the saved fields are no arguments of this script, or not of their type as JSON."""
    default = {field.name: getattr(type(args), field.name, None) for field in fields(args)}
    where = f"--resume {args.resume}: {RunFolder(args.resume).arguments.name}"
    expected = "expected the arguments of this script: is it the run of another?"
    if odd := sorted(saved.keys() - default.keys()):
        raise SystemExit(f"{where} has {odd[0]!r}, {expected}")
    if missing := sorted(default.keys() - saved.keys() - UNSAVED):
        raise SystemExit(f"{where} lacks {missing[0]!r}, {expected}")
    for name, value in saved.items():
        if isinstance(default[name], tuple) and not isinstance(value, list):
            raise SystemExit(f"{where} has {name!r} {value!r}, expected a list")
        if isinstance(default[name], Path) and not isinstance(value, str):
            raise SystemExit(f"{where} has {name!r} {value!r}, expected a path")


def check_inputs(folder: RunFolder, inputs: Iterable[Input]) -> None:
    """Print the inputs from outside the folder; exit if an input changed or a part is a link."""
    for path in sorted(folder.path.iterdir()):
        if path.is_symlink():
            raise SystemExit(
                f"{path} is a link, which is not followed: put the target in its place"
            )
    print_inputs(inputs, folder.path)
    check_unchanged(folder.read_record()["inputs"], digests_of(inputs))


@contextmanager
def old_folder(args: Any, inputs: Iterable[Input]) -> Iterator[RunFolder]:
    """Lock the folder of a run to resume. More steps are written to the saved arguments."""
    folder = RunFolder(args.resume)
    with locked(folder.path):
        delete_unfinished(folder.path)
        if folder.read_arguments()["steps"] != args.steps:
            folder.write_arguments(replace(args, resume=None, complete=False), digests_of(inputs))
        yield folder


def resume_command(folder: RunFolder) -> str:
    """Hint with the command that resumes a run; empty for a run without a checkpoint."""
    if not has_checkpoint(folder.checkpoints):
        return ""
    return f"To go on: python -m experiments.steer --resume {folder.path}"


def _values(
    given: Any, own: Any, default: Any | None, prefix: str = ""
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, given value, the run's value and default of each field, options of guides included."""
    for field in fields(given):
        if field.name in UNSAVED:
            continue
        value, run_value, unset = (getattr(one, field.name, None) for one in (given, own, default))
        if is_dataclass(value):
            is_options = field.name == "options"
            inner = prefix if is_options else f"{prefix}{field.name}."
            yield from _values(value, run_value, unset, inner)
        else:
            yield f"{prefix}{field.name}", value, run_value, unset


def _shown(value: Any) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)

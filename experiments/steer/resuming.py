"""Resume of a run: its own arguments, or a larger budget, and the run's own files."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from experiments.shared.command_line import option
from experiments.shared.run_folder import DIGEST, RunFolder, digest_of
from experiments.steer.config import COMMAND_LINE_ALONE, changed, entries, settable
from experiments.steer.durations import seconds_of
from experiments.steer.inputs import Input, check_unchanged, digests_of, print_inputs
from experiments.steer.processes import num_launched
from inference.svi.checkpoint.folder import has_checkpoint, locked
from model.common import files, ranks
from model.common.paths import ELSEWHERE, expanded, portable

PARTS = {"arguments", "inputs", "versions"}
BUDGETS = ("steps", "responses", "time")
"""Fields that may be larger in a resume."""
PLACES = ("shard", "gather_draws")
"""Fields that may differ in a resume: they place networks on processes, and change no number."""


def own_arguments(args: Any, parse: Callable[[Any], Any] | None = None) -> Any:
    """Arguments of the run that `args.resume` names, with a larger budget if one is given.

    One process has the whole networks, also of a run whose processes shared them.

    Args:
        args: arguments beside `resume`.
        parse: parser of the command line by other defaults. Default: arguments that differ from
            the default count as given.
    """
    own, default = restored(args, read_record(args.resume)["arguments"]), type(args)()
    args = args if parse is None else parse(own)
    check_given(args, own, default if parse is None else None)
    given = {name: getattr(args, name) for name in (*BUDGETS, *PLACES)}
    if parse is None:
        given = {name: value for name, value in given.items() if value != getattr(default, name)}
    if own.shard is not None and (num_launched() or 1) == 1:
        print(f"one process has the whole networks, of which the run has shards ({own.shard})")
        given |= {"shard": None, "gather_draws": False}
    return replace(own, **given, complete=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of arguments and inputs of a run folder; exit if it is damaged."""
    file = RunFolder(path).arguments
    where = f"--resume {path}: {file.name}"
    if not file.is_file():
        raise SystemExit(f"{where} is missing: expected the folder of an earlier run")
    record = files.read_record(file, dict.fromkeys(PARTS, dict))
    digest = None if record is None else record.pop(DIGEST, None)
    if record is None or record.keys() - {"unused"} != PARTS:
        expected = "expected the arguments of a run as JSON. Start the run again"
        raise SystemExit(f"{where} is damaged: {expected}")
    if digest not in (None, digest_of(record)):
        fix = f"Put the old content back, or delete the line {DIGEST!r} if the change is meant"
        problem = f"its content differs from its {DIGEST!r}, damaged or changed by hand"
        raise SystemExit(f"{where} is not as it was written: {problem}. {fix}")
    return record | {"arguments": expanded(record["arguments"], path)}


def restored(args: Any, saved: Mapping[str, Any]) -> Any:
    """Arguments that a run folder has saved; exits if they are of another script."""
    where, values = f"--resume {args.resume}: arguments.json", entries(saved)
    if missing := sorted((settable(args) | {"options"}) - saved.keys()):
        expected = "expected the arguments of this script in this version"
        fix = "to start a new run with the options of an older one, name the file by --config"
        raise SystemExit(f"{where} lacks {missing[0]!r}, {expected}: {fix}")
    for name, value in values.items():
        if ELSEWHERE in str(value):
            values[name] = _repeated(args, name, value)
    return changed(args, values, where)


def _repeated(args: Any, name: str, saved: Any) -> Any:
    """Value on the command line for an argument whose path was not saved; exits if it differs."""
    given = json.loads(json.dumps(getattr(args, name), default=str))
    if portable(given, args.resume) == saved:
        return given
    place = f"the run was made with {saved}, at a place that is not saved"
    raise SystemExit(f"{option(name)}: {place}. Repeat the option beside --resume, with its path")


def check_given(given: Any, own: Any, default: Any | None = None) -> None:
    """Exit at the first argument that differs from the run's own, but for a larger budget or place.

    Args:
        given: arguments beside `--resume`.
        own: arguments of the run.
        default: arguments that count as not given; None if every difference was given.
    """
    run, unset = dict(_values(own)), {} if default is None else dict(_values(default))
    for name, value in _values(given):
        is_unset = name in unset and value == unset[name]
        is_free = name in PLACES or _is_larger_budget(name, value, run[name])
        if value == run[name] or is_unset or is_free:
            continue
        raise SystemExit(
            f"{option(name)} is given with --resume: {_shown(value)}, where the run has "
            f"{_shown(run[name])}. A resume takes the run's own arguments, and a larger budget "
            "(--steps, --responses, --time) if you like: leave it out, or start another run"
        )


def check_inputs(folder: RunFolder, inputs: Iterable[Input]) -> None:
    """Print the inputs from outside the folder; exit if an input changed or a part is a link."""
    for path in sorted(folder.path.iterdir()):
        if path.is_symlink():
            fix = "put the target in its place"
            raise SystemExit(f"{path} is a link, which is not followed: {fix}")
    print_inputs(inputs, folder.path)
    now = digests_of(inputs)
    names = {portable(option, folder.path): option for option in now}
    saved = read_record(folder.path)["inputs"].items()
    check_unchanged({names.get(option, option): digests for option, digests in saved}, now)


@contextmanager
def old_folder(args: Any, inputs: Iterable[Input]) -> Iterator[RunFolder]:
    """Lock the folder of a run to resume. A larger budget is written to the saved arguments."""
    folder = RunFolder(args.resume)
    with locked(folder.path):
        files.delete_unfinished(folder.path)
        saved = read_record(folder.path)["arguments"]
        if any(saved[name] != getattr(args, name) for name in BUDGETS):
            folder.write_arguments(replace(args, resume=None, complete=False), digests_of(inputs))
        yield folder


def resume_command(folder: RunFolder, args: Any) -> str:
    """Hint with the command that resumes a run; empty for a run without a checkpoint.

    The command is that of the file that was run, if any, which may have added entries of its own,
    and repeats the arguments whose paths are not saved.
    """
    if not has_checkpoint(folder.checkpoints):
        return ""
    program = sys.modules["__main__"]
    is_file = program.__spec__ is None and hasattr(program, "__file__")
    words = [sys.argv[0]] if is_file else ["-m", "experiments.steer"]
    words += ["--resume", str(folder.path)]
    for name, value in _values(args):
        given = json.loads(json.dumps(value, default=str))
        if ELSEWHERE in str(portable(given, folder.path)):
            words += [option(name), *(given if isinstance(given, list) else [given])]
    # a network in shards may be larger than one device
    launch = "python" if args.shard is None else f"torchrun --nproc-per-node {ranks.num_ranks()}"
    return f"To go on: {launch} {shlex.join(words)}"


def _is_larger_budget(name: str, value: Any, own: Any) -> bool:
    """True for a budget that is larger than the run's own budget of the same kind."""
    if name not in BUDGETS or value is None or own is None:
        return False
    return seconds_of(value) > seconds_of(own) if name == "time" else value > own


def _values(args: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of each field, options of guides included."""
    for name in (field.name for field in fields(args) if field.name not in COMMAND_LINE_ALONE):
        value = getattr(args, name)
        if is_dataclass(value):
            yield from _values(value, "" if name == "options" else f"{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)

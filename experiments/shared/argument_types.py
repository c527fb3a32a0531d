"""Types of the options of scripts: each holds the range of its values, see `command_line`."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from guides import GUIDES
from model.common.checks import finite, positive, whole_number
from model.common.devices import named_device
from model.common.files import is_there

CORES = os.cpu_count() or 1


class Check(NamedTuple):
    """Annotation of a type: a function of option name and value that raises ValueError."""

    check: Callable[[str, Any], object]


class Used(NamedTuple):
    """Annotation of a type: when an option has an effect; `unless` reads as "without --sample"."""

    when: Callable[[Any], Any]
    unless: str


def count(at_least: int = 1, at_most: int = 10**6, why: str = "more would take days") -> Check:
    """A whole number."""
    return Check(partial(whole_number, at_least=at_least, at_most=at_most, why=why))


def number(**bounds: Any) -> Check:
    """A finite number within the bounds of `model.common.checks.finite`."""
    return Check(partial(finite, **bounds))


def multiple(of: int) -> Check:
    """A multiple of a whole number."""
    return _condition(lambda value: value % of == 0, f"a multiple of {of}")


def _condition(is_met: Callable[[Any], bool], expected: str) -> Check:
    """A condition on a value, shown in the error as on the command line."""

    def check(name: str, value: Any) -> None:
        if not is_met(value):
            shown = " ".join(map(str, value if isinstance(value, tuple) else [value])).strip()
            raise ValueError(f"{name} is {shown or 'empty'}, expected {expected}")

    return Check(check)


def attempt(use: Callable[[Any], object], expected: str = "") -> Check:
    """A value that the system accepts: a function of the value raises no ValueError or OSError."""

    def check(name: str, value: Any) -> None:
        try:
            use(value)
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", error)
            raise ValueError(f"{name} {value}: {reason}{expected}") from error

    return Check(check)


def _positive(name: str, value: float) -> None:
    positive(name, value)
    finite(name, value, at_least=1e-12, at_most=1e12, why="beyond, nothing is left but rounding")


def _check_folder(path: Path) -> None:
    existing = next(filter(is_there, (path, *path.absolute().parents)))
    if not existing.exists():
        raise ValueError(f"{existing} is a link to what is not there")
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing} cannot be written to")


SOME = _condition(bool, "at least one")
DISTINCT = _condition(lambda x: 0 < len(x) == len(set(x)), "one or more, all different")
Count: TypeAlias = Annotated[int, count()]
Positive: TypeAlias = Annotated[float, Check(_positive)]
Rate: TypeAlias = Annotated[float, number(above=0, at_most=1e3, why="a learning rate")]
Seed: TypeAlias = Annotated[int, count(0, 2**31 - 1)]
Seeds: TypeAlias = Annotated[int, count(1, 10_000)]
Threads: TypeAlias = Annotated[int, count(1, 64 * CORES, f"there are {CORES} cores")]
Workers: TypeAlias = Annotated[
    int, count(1, 4 * CORES, f"there are {CORES} cores, and each worker takes half a gigabyte")
]
Length: TypeAlias = Annotated[int, count(1, 100_000, "tokens")]
Name: TypeAlias = Annotated[str, _condition(lambda text: text.strip() != "", "a name")]
Device: TypeAlias = Annotated[str, attempt(named_device)]
Out: TypeAlias = Annotated[Path, attempt(_check_folder)]
Folder: TypeAlias = Annotated[Path, attempt(os.listdir, ", expected a folder")]
GuideName: TypeAlias = Literal[tuple(GUIDES)]  # type: ignore[valid-type]
DtypeName: TypeAlias = Literal["float32", "bfloat16", "float64"]


def described(question: str, registry: Mapping[str, Any]) -> str:
    """Help text of an option: a phrase, and a line for each entry of a registry."""
    return "\n\n".join([question, *(f"{name}: {x.summary}" for name, x in registry.items())])


def chosen(only: Sequence[str], names: Iterable[str]) -> list[str]:
    """Names in `--only`, ordered; all if empty. Exits at a name that is unknown or given twice."""
    known = list(names)
    for place, name in enumerate(only):
        if name not in known:
            raise SystemExit(f"--only has {name!r}, expected one of: {', '.join(known)}")
        if name in only[:place]:
            raise SystemExit(f"--only has {name!r} twice")
    return [name for name in known if name in (only or known)]

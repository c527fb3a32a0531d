"""Arguments of the scripts, checked before anything is spent on them: the range of a field stands beside the field.

    @dataclass(frozen=True)
    class Coin(Arguments):
        flips: Count = 100
        bias: Annotated[float, number(above=0, below=1)] = 0.5
        budget: Annotated[int, count(), used(lambda args: args.sample is not None, "without --sample")] = 4096

A field that is None has a default of ours, and passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Self,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from model.common.checks import finite, one_of, positive, whole_number
from model.networks.placement import named_device

CORES = os.cpu_count() or 1
_HINTS: dict[type, dict[str, Any]] = {}


@dataclass(frozen=True)
class Check:
    """Beside a type: what a value has to be. `check` takes the option's name and the value, and raises ValueError."""

    check: Callable[[str, Any], object]


@dataclass(frozen=True)
class Used:
    """Beside a type: when the field plays a part at all, and `unless`, in words, when it plays none."""

    when: Callable[[Any], bool]
    unless: str


class Arguments:
    """The arguments of a script, a dataclass. Exits, by the option's name, at the first value that cannot be."""

    def __post_init__(self) -> None:
        try:
            for name, hint in hints_of(type(self)).items():
                _check(option(name), hint, getattr(self, name))
        except ValueError as error:
            raise SystemExit(str(error)) from error
        except OSError as error:  # a path that the system does not take
            raise SystemExit(f"{option(name)} {error.filename}: {error.strerror}") from error

    def completed(self, parse: Callable[[Self], Self]) -> Self:
        """These arguments, or those of a run that they name, with what the command line says on top.

        Args:
            parse: reads the command line anew, with other defaults.
        """
        return self


def check_used(args: Arguments, given: Collection[str]) -> None:
    """Exit at the first option of a command line that plays no part beside the others.

    Args:
        args: the arguments that the command line gives.
        given: names of the fields that stood in it.
    """
    for name, hint in hints_of(type(args)).items():
        for metadata in parts(hint) if name in given else ():
            if isinstance(metadata, Used) and not metadata.when(args):
                raise SystemExit(
                    f"{option(name)} plays no part {metadata.unless}: leave one of them out"
                )


def hints_of(arguments: type) -> dict[str, Any]:
    """The type of each field, with what stands beside it."""
    if arguments not in _HINTS:
        _HINTS[arguments] = get_type_hints(arguments, include_extras=True)
    return _HINTS[arguments]


def option(field: str) -> str:
    """A field as the command line has it."""
    return f"--{field.replace('_', '-')}"


def parts(hint: Any) -> Iterator[Any]:
    """The parts of a type, and all that is annotated to the type or to a part."""
    for part in get_args(hint):
        yield part
        yield from parts(part)


def _check(name: str, hint: Any, value: Any) -> None:
    """Run the checks that stand beside a type, and those beside its parts; a `Literal` is a check of its own."""
    if value is None:
        return
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        for beside_it in metadata:
            if isinstance(beside_it, Check):
                beside_it.check(name, value)
    if get_origin(hint) is Literal:
        one_of(name, value, get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            _check(name, part, value)
    if get_origin(hint) is tuple:
        for item in value:
            _check(name, get_args(hint)[0], item)


def count(at_least: int = 1, at_most: int = 10**6, why: str = "more would take days") -> Check:
    """A whole number. With more than `at_most` a script would run for ages, or out of memory."""
    return Check(partial(whole_number, at_least=at_least, at_most=at_most, why=why))


def number(**bounds: Any) -> Check:
    """A finite number within bounds, as `model.checks.finite` takes them."""
    return Check(partial(finite, **bounds))


def multiple(of: int) -> Check:
    """A whole number with no remainder."""

    def check(name: str, value: int) -> None:
        if value % of:
            raise ValueError(f"{name} is {value}, expected a multiple of {of}")

    return Check(check)


def used(when: Callable[[Any], bool], unless: str) -> Used:
    """Mark a field that is used only then."""
    return Used(when, unless)


def _distinct(name: str, values: tuple[Any, ...]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(
            f"{name} is {' '.join(map(str, values)) or 'empty'}, expected one or more, all different"
        )


def _positive(name: str, value: float) -> None:
    """A positive number with which something can be multiplied and divided in float32."""
    positive(name, value)
    finite(name, value, at_least=1e-12, at_most=1e12, why="beyond, nothing is left but rounding")


def _some(name: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise ValueError(f"{name} is empty: expected at least one")


def _filled(name: str, value: str) -> None:
    if not str(value).strip():
        raise ValueError(f"{name} is empty")


def _folder(name: str, path: Path) -> None:
    """A folder that is there, or that can be made."""
    there = next(
        place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink()
    )
    if not there.exists():
        raise ValueError(f"{name} {path}: {there} is a link to what is not there")
    if not there.is_dir():
        raise ValueError(f"{name} {path}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name} {path}: {there} cannot be written to")


def _file(name: str, path: Path) -> None:
    """A file that is there and can be read."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{name}: {path}: {error.strerror}, expected a text file") from error


def _device(name: str, device: str) -> None:
    """A device that this machine has."""
    try:
        named_device(device)
    except ValueError as error:
        raise ValueError(f"{name} {device}: {error}") from error


DISTINCT = Check(_distinct)
SOME = Check(_some)
Count: TypeAlias = Annotated[int, count()]
Positive: TypeAlias = Annotated[float, Check(_positive)]
Rate: TypeAlias = Annotated[float, number(above=0, at_most=1e3, why="a learning rate")]
Only: TypeAlias = Annotated[tuple[str, ...], used(lambda args: args.only, "where it names nothing")]
Seed: TypeAlias = Annotated[int, count(0, 2**31 - 1)]
Seeds: TypeAlias = Annotated[int, count(1, 10_000)]
Threads: TypeAlias = Annotated[int, count(1, 64 * CORES, f"there are {CORES} cores")]
Workers: TypeAlias = Annotated[
    int, count(1, 4 * CORES, f"there are {CORES} cores, and each worker takes half a gigabyte")
]
Length: TypeAlias = Annotated[int, count(1, 100_000, "tokens")]
Name: TypeAlias = Annotated[str, Check(_filled)]
Device: TypeAlias = Annotated[str, Check(_device)]
Out: TypeAlias = Annotated[Path, Check(_folder)]
TextFile: TypeAlias = Annotated[Path, Check(_file)]

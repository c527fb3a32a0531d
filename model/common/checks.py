"""Checks of arguments: a value out of range is refused by name, before anything is computed.

    self.num_particles = whole_number("num_particles", num_particles, at_least=2)
    self.beta = positive("beta", beta)

Each check returns the value, numbers as a plain `int` or `float`. Numbers of numpy are numbers.
A bool and a text are no numbers. `why` is the end of the error: the reason, or the likely fix.
"""

import inspect
import math
import os
from collections.abc import Callable, Collection
from numbers import Integral, Real
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from model.common.texts import quoted

MOST = 10**9
"""Largest count by default. A count of 10^12 would run out of memory, or for years."""

T = TypeVar("T")


def whole_number(
    name: str, value: object, *, at_least: int = 1, at_most: int = MOST, why: str = ""
) -> int:
    """A whole number from `at_least` to `at_most`; a `ValueError` otherwise."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is not None and at_least <= number <= at_most:
        return number
    shows_most = (number is not None and number > at_most) or at_most != MOST
    upto = f" and at most {at_most:,}" if shows_most else ""
    raise ValueError(_message(name, value, f"a whole number of at least {at_least:,}{upto}", why))


def finite(
    name: str,
    value: object,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    why: str = "",
) -> float:
    """A finite number in bounds, `above` and `below` excluded; a `ValueError` otherwise."""
    number = _as_float(value)
    if math.isfinite(number) and at_least <= number <= at_most and above < number < below:
        return number
    limits = {"of at least": at_least, "above": above, "of at most": at_most, "below": below}
    finite_limits = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
    bounds = " and ".join(finite_limits)
    expected = "a positive finite number" if bounds == "above 0" else f"a finite number {bounds}"
    raise ValueError(_message(name, value, expected.strip(), why))


def positive(name: str, value: object, *, why: str = "") -> float:
    """A finite number above 0; a `ValueError` otherwise."""
    return finite(name, value, above=0, why=why)


def probability(name: str, value: object) -> float:
    """A number from 0 to 1; a `ValueError` otherwise."""
    return finite(name, value, at_least=0, at_most=1)


def seed(name: str, value: object) -> int:
    """A random seed of torch, numpy and Pyro, from 0 to 2^32 - 1; a `ValueError` otherwise."""
    return whole_number(name, value, at_least=0, at_most=2**32 - 1)


def folder_path(name: str, value: object) -> Path:
    """The path of a folder; a `TypeError`, or a `ValueError` for "", the working directory."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is {quoted(value)}, expected a path: a text or a `Path`")
    if value == "":
        raise ValueError(f'{name} is empty, expected a path: "." is the working directory')
    return Path(value)


def one_of(name: str, value: T, choices: Collection[object]) -> T:
    """A text among `choices`; a `ValueError` with the choices otherwise."""
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(_message(name, value, f"one of: {', '.join(map(str, choices))}", ""))


def boolean(name: str, value: object) -> bool:
    """True or False; a `TypeError` otherwise, for the text "False" too."""
    if isinstance(value, bool):
        return value
    raise TypeError(f"{name} is {quoted(value)}, expected True or False")


def function(name: str, value: T, *, takes: int | None = None, why: str = "") -> T:
    """A callable object; a `TypeError` otherwise, and for a class in place of its instance.

    `takes` is the number of arguments with which the function will be called, where known.
    """
    size = "" if takes is None else f" of {takes} argument{'s' * (takes > 1)}"
    expected = f"expected a function{size}{': ' if why else ''}{why}"
    if isinstance(value, type):
        raise TypeError(f"{name} is the class {value.__name__}, {expected}")
    if not callable(value):
        raise TypeError(f"{name} is a {type(value).__name__}, {expected}")
    if takes is not None and not _binds(parameters := _signature(value), takes):
        own_name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{name} is {own_name}{parameters}, {expected}")
    return value


def _signature(value: Callable[..., object]) -> inspect.Signature | None:
    """Parameters of a function; None if they are not known, as of some built-in functions."""
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def _binds(parameters: inspect.Signature | None, takes: int) -> bool:
    """True if a function can be called with so many arguments by position, or may be."""
    if parameters is None:
        return True
    try:
        parameters.bind(*range(takes))
    except TypeError:
        return False
    return True


def instance(name: str, value: object, kind: type[T], *, why: str = "") -> T:
    """An object of the class `kind`; a `TypeError` with the class of the value otherwise."""
    if isinstance(value, kind):
        return value
    expected = f"a {kind.__name__}{': ' if why else ''}{why}"
    raise TypeError(f"{name} is a {type(value).__name__}, expected {expected}")


def as_given(name: str, value: object, given: Tensor, *, is_finite: bool = False) -> Tensor:
    """A real tensor of the shape of `given`, with gradient if `given` has one; an error otherwise.

    With `is_finite`, the tensor is finite where `given` is.
    """
    tensor = instance(name, value, Tensor)
    if tensor.shape != given.shape or tensor.is_complex():
        got = f"shape {tuple(tensor.shape)} and type {tensor.dtype}"
        raise ValueError(f"{name} has {got}, expected real numbers of shape {tuple(given.shape)}")
    if given.requires_grad and not tensor.requires_grad:
        raise ValueError(f"{name} has no gradient, expected one: do not detach all its terms")
    if is_finite and (where := first_index(given.isfinite() & ~tensor.isfinite())) is not None:
        fault = f"{name} is {tensor[where].item()} at index {where}"
        raise ValueError(f"{fault}, expected a finite number: limit exponents by `clamp`")
    return tensor


def first_index(mask: Tensor) -> tuple[int, ...] | None:
    """Index of the first True in a mask of any shape; None if nothing is True."""
    return tuple(mask.nonzero()[0].tolist()) if bool(mask.any()) else None


def _as_float(value: object) -> float:
    """A real number as a float; NaN for everything else, 10^400 included."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def _message(name: str, value: object, expected: str, why: str) -> str:
    return f"{name} is {quoted(value)}, expected {expected}{': ' if why else ''}{why}"

"""Comparison of the model of one step with that of another, without keeping either alive.

A bound method, a `functools.partial` and a lambda are new objects each time they are made. They are
the same model if they are made of the same parts: object, function, arguments, values in use.
"""

import inspect
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from inference.programs import Program


class SameModel:
    """Tells if a program is the model that was passed at the start."""

    def __init__(self, model: Program) -> None:
        self.program = _reference(inspect.unwrap(model))
        self.parts = [_reference(part) for part in _parts(model)]

    def __call__(self, model: Program) -> bool:
        if self.program() is inspect.unwrap(model):
            return True
        parts = _parts(model)
        return len(parts) == len(self.parts) and all(
            _is_same(reference, part) for reference, part in zip(self.parts, parts, strict=True)
        )


def _parts(program: Any) -> list[Any]:
    """Objects that a program is made of, none of them new."""
    program = inspect.unwrap(program)
    if isinstance(program, partial):
        values = [value for item in program.keywords.items() for value in item]
        return [*_parts(program.func), *program.args, *values]
    if not inspect.isfunction(program):
        return [getattr(program, "__self__", program)]
    try:
        names = inspect.getclosurevars(program)
    except ValueError:  # a name of an outer function without a value
        return [program]
    defaults = [*(program.__defaults__ or ()), *(program.__kwdefaults__ or {}).values()]
    return [program.__code__, *names.nonlocals.values(), *names.globals.values(), *defaults]


def _reference(part: Any) -> Callable[[], Any]:
    """Weak reference where there can be one, as to all objects of classes of Python."""
    try:
        return weakref.ref(part)
    except TypeError:
        return lambda: part


def _is_same(reference: Callable[[], Any], other: Any) -> bool:
    """True for one object, and for equal numbers and texts; False for an object that is gone."""
    one = reference()
    if one is None and isinstance(reference, weakref.ref):
        return False
    plain = isinstance(one, int | float | str) and type(one) is type(other)
    return one is other or (plain and one == other)

"""Numbers of the command line, checked before anything is spent on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def check_numbers(args: Any, *, positive: tuple[str, ...] = (), at_least: Mapping[str, int] | None = None) -> None:
    """Exit at the first number that cannot be; None is a default, and passes.

    Args:
        args: the arguments of a script.
        positive: fields that are finite and above 0.
        at_least: fields that count something, and the least that they may be.
    """
    for field in positive:
        value = getattr(args, field)
        if value is not None and not 0 < value < math.inf:
            raise SystemExit(f"{option(field)} is {value:g}, expected a positive finite number")
    for field, least in (at_least or {}).items():
        value = getattr(args, field)
        if value is not None and value < least:
            raise SystemExit(f"{option(field)} is {value}, expected at least {least}")


def option(field: str) -> str:
    """A field as the command line has it."""
    return f"--{field.replace('_', '-')}"

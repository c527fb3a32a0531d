"""Plain data: texts, numbers, truth values, None, and lists and dicts of these, as JSON holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.common.texts import check_unicode, quoted


def check_plain(value: object, where: str) -> None:
    """Refuse data that JSON cannot hold, by a `TypeError` with the place."""
    if isinstance(value, str):
        check_unicode(value, where)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"item {index} of {where}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {quoted(key)}, expected a text")
            check_plain(item, f"{key!r} of {where}")
    elif value is not None and not isinstance(value, bool | int | float):
        kind = type(value).__name__
        raise TypeError(
            f"{where} is {quoted(value)} ({kind}), expected a text, a number, a truth value, None, "
            "or lists and dicts of these: convert it, or leave it out"
        )


def plain(value: Any, where: str) -> Any:
    """The value with scalars and arrays of numpy as Python's own, checked."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    check_plain(value, where)
    return value

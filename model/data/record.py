"""Record: one row of data by column, with its place, and the errors that name the place."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from model.common.plain_data import check_plain
from model.common.texts import quoted


class DataError(ValueError):
    """A file cannot be read, or a record in it is not as expected."""


class Record(NamedTuple):
    """One row of data.

    Attributes:
        place: file and line, for errors. Lines are counted from 1, rows and items from 0.
        values: values by column.
        has_types: False if all values are texts, as in CSV, which has no numbers, lists and null.
    """

    place: str
    values: Mapping[str, Any]
    has_types: bool = True


def records_of(rows: Iterable[Any]) -> Iterator[Record]:
    """Records of rows in memory, such as a list of dicts or a `datasets.Dataset`."""
    for index, row in enumerate(rows):
        yield Record(f"record {index}", row)


def checked_value(record: Record, column: str, fix: str = "") -> Any:
    """The value in a column; a `DataError` with place and column if JSON cannot hold the value.

    `fix` is the end of the error.
    """
    value, where = record.values[column], f"{record.place}: column {column!r}"
    try:
        check_plain(value, where)
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply{fix}") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"{error}{fix}") from error
    if (number := _not_finite(value)) is not None:
        raise DataError(f"{where} has the number {number}, expected finite numbers, or null{fix}")
    return value


def _not_finite(value: Any) -> float | None:
    """A NaN or an infinity in plain data; None without one."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, float) and not math.isfinite(part):
            return part
        if isinstance(part, Mapping):
            parts += part.values()
        elif isinstance(part, list | tuple):
            parts += part
    return None


def check_columns(record: Record, expected: Iterable[str], fix: str = "") -> None:
    """Refuse a record that is no mapping or lacks a column."""
    if not isinstance(record.values, Mapping):
        got = f"{quoted(record.values)} ({type(record.values).__name__})"
        raise DataError(f"{record.place}: got {got}, expected an object with a value by column")
    for column in expected:
        if column not in record.values:
            names = ", ".join(map(repr, record.values)) or "none"
            raise DataError(f"{record.place}: column {column!r} is missing, got {names}{fix}")

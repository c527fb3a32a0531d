"""Record: one row of data by column, its checked values, and errors that name its place."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from model.common.texts import check_plain, quoted
from model.prior.chat import EXAMPLE, Messages, check_messages, without_null


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


def text_or_chat(record: Record, column: str) -> str | Messages:
    """The value in a column: a text, or the messages of a chat.

    Keys of a message whose value is null are dropped: tables fill them in where other messages have
    the key. In CSV, which has texts alone, a chat is written as a JSON array.

    Raises:
        DataError: with place and column.
    """
    value, where = checked_value(record, column), f"{record.place}: column {column!r}"
    if not record.has_types:
        value = _of_cell(value, where)
    if isinstance(value, str):
        return value
    is_list = isinstance(value, list | tuple) and value
    if not is_list or not all(isinstance(part, Mapping) for part in value):
        raise DataError(
            f"{where} is {quoted(value)} ({type(value).__name__}), expected a text, or messages "
            f"such as {EXAMPLE}"
        )
    messages = without_null(value)
    try:
        check_messages(messages, where)
    except (TypeError, ValueError) as error:
        raise DataError(f"{error}") from error
    return messages


def _of_cell(cell: str, where: str) -> Any:
    """A cell of CSV: its text, or the array if the text begins as an array of objects does."""
    if not cell:
        raise DataError(f"{where} is an empty cell: missing, or empty? Leave the row out")
    if not cell.lstrip().startswith("[{"):
        return cell
    try:
        return json.loads(cell)
    except ValueError as error:
        raise DataError(
            f"{where} begins as messages do and is not JSON ({error}): {quoted(cell)}. Write "
            "messages by `json.dumps`, not by `str`"
        ) from error

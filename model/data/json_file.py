"""JSON files: one object a line, or one array of objects."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.common.texts import SHOWN, read_text, split_lines
from model.data.record import DataError, Record


def read_json(path: Path) -> Iterator[Record]:
    """Records of a file: JSON lines, or an array of objects if the file begins with a bracket.

    Empty lines are skipped.

    Raises:
        DataError: with the line, and the column of the text, if the file is no JSON, or if an
            object has a name twice.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        for index, values in enumerate(_parsed(text, str(path))):
            yield Record(f"{path}, item {index}", values)
        return
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            yield Record(f"{path}, line {number}", _parsed(line, f"{path}, line {number}"))


def _parsed(text: str, place: str) -> Any:
    """A JSON text as plain data."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        line = "" if ", line " in place else f", line {error.lineno}"
        reason, where = f"{error.msg} at column {error.colno}", f"{place}{line}"
        raise DataError(
            f"{where}: not JSON ({reason}), expected an object on each line, or one array of "
            "objects in brackets"
        ) from error
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise DataError(f"{place}: not JSON ({str(error)[:SHOWN]}), expected an object") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object of a list of names and values; refused if a name is given twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"an object has the name {twice!r} twice, expected each name once")
    return values

"""Text files: JSON, one object a line or one array of objects; CSV, a header and rows of cells."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.common.texts import SHOWN, quoted, read_text, split_lines
from model.data.record import DataError, Record

DELIMITERS = {".csv": ",", ".tsv": "\t"}  # delimiter of cells, by the end of the file's name


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
    fix = _hint(text)
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            yield Record(f"{path}, line {number}", _parsed(line, f"{path}, line {number}", fix))


def _hint(text: str) -> str:
    """End of the error of a file without JSON lines: the likely fix."""
    if not text.lstrip().startswith("{"):
        return ". Prompts as plain lines are for `--prompts-file` of `steer`, and for `encode`"
    try:
        names = list(json.loads(text))
    except (ValueError, RecursionError):
        return ""
    return f". The file is one object over several lines, with the names {quoted(names)}"


def _parsed(text: str, place: str, fix: str = "") -> Any:
    """A JSON text as plain data; `fix` is the end of the error."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        line = "" if ", line " in place else f", line {error.lineno}"
        reason, where = f"{error.msg} at column {error.colno}", f"{place}{line}"
        raise DataError(
            f"{where}: not JSON ({reason}), expected an object on each line, or one array of "
            f"objects in brackets{fix}"
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


def read_csv(path: Path) -> Iterator[Record]:
    """Records of a file whose cells are all texts: CSV has neither numbers nor null.

    Cells with a delimiter, a quote or a line break stand in double quotes. Empty lines are skipped.

    Raises:
        DataError: with the line, if a row is longer or shorter than the header, if a name of the
            header is empty or given twice, or if quotes do not fit.
    """
    text, delimiter = read_text(path), DELIMITERS.get(path.suffix.lower(), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: {error}, expected quotes around each cell that has quotes, "
                "a delimiter or a line break, its own quotes doubled, and the last quote closed. "
                f"Texts of more than {csv.field_size_limit():,} characters are for JSON lines"
            ) from error
        place, line = f"{path}, line {line}", rows.line_num + 1
        if not cells:
            continue
        if not header:
            header = _checked(cells, place)
        elif len(cells) != len(header):
            counts = f"{len(cells)} cells, the header has {len(header)}"
            raise DataError(f"{place} has {counts}: is a cell with a delimiter without quotes?")
        else:
            yield Record(place, dict(zip(header, cells, strict=True)), has_types=False)


def _checked(header: list[str], place: str) -> list[str]:
    """Names of a header, all different and none empty."""
    for number, name in enumerate(header, 1):
        if not name.strip():
            fix = "pandas writes no index with `to_csv(path, index=False)`"
            raise DataError(f"{place}: column {number} has no name, expected one: {fix}")
        if name in header[: number - 1]:
            raise DataError(f"{place}: the header has {name!r} twice, expected each name once")
    return header

"""CSV files: a header with the names of the columns, then a row of cells for each record."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from model.common.texts import read_text
from model.data.record import DataError, Record

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiter of cells, by the end of the file's name."""


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

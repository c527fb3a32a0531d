"""Records of a source of data: rows in memory, a file, a folder, or a name on the hub.

| source | format | needs |
|---|---|---|
| iterable of mappings | dicts, or a `datasets.Dataset` | |
| `.csv`, `.tsv` | a header, then rows of texts | |
| `.parquet` | Parquet | extra `data` |
| other file | JSON lines, or one JSON array | |
| folder | written by `save_to_disk`, or with data files that `load_dataset` reads | extra `data` |
| other name | data set on the hub | extra `data` |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from model.common.checks import instance, whole_number
from model.common.texts import TextFileError
from model.data.datasets_library import HUB_NAME, read_dataset, read_parquet
from model.data.record import DataError, Record, records_of
from model.data.text_files import DELIMITERS, read_csv, read_json

Source: TypeAlias = str | Path | Iterable[Mapping[str, Any]]
"""A file, a folder, a name on the hub, or rows in memory."""
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z")
FILES = (*DELIMITERS, *PACKED, ".parquet", ".json", ".jsonl", ".ndjson", ".txt", ".arrow")
"""Ends of names of files: a name that ends so is no name on the hub."""


def read_records(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> list[Record]:
    """Read the records of a source, at least one.

    Args:
        source: see the table of this file.
        columns: names of the columns to read; None for all. Others may be in the result.
        split: see `read_prompts`, as for config, revision and limit.

    Raises:
        DataError: with file and line or row.
    """
    if isinstance(source, Mapping):
        fix = "of a `DatasetDict` name a split, data['train']"
        raise DataError(f"got one mapping, expected an iterable: {fix}")
    most = None if limit is None else whole_number("limit", limit)
    where = str(source) if isinstance(source, str | Path) else "the source"
    options = {"split": split, "config": config, "revision": revision}
    try:
        records = list(islice(_records(source, columns, options), most))
    except TextFileError as error:
        raise DataError(f"{error}") from error
    if not records:
        raise DataError(f"{where} has no records, expected at least one")
    return records


def _records(
    source: Source, columns: Sequence[str] | None, options: dict[str, str | None]
) -> Iterator[Record]:
    """Records of a source, by its kind."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and not path.is_file() and _is_table(path):
        return read_dataset(str(source), columns, **options)
    for name, value in options.items():
        if value is not None:
            kind = "rows in memory" if path is None else f"{path}, one file"
            raise DataError(f"{name} is {value!r}, which {kind} has not: leave it out")
    if path is None:
        instance("source", source, Iterable, why="of mappings, or a path")  # type: ignore[type-abstract]
        return records_of(source)  # type: ignore[arg-type]
    suffix = path.suffix.lower()
    if suffix in PACKED:
        raise DataError(f"{path} is packed, expected a plain file: unpack it")
    if suffix == ".parquet":
        return read_parquet(path, columns)
    return read_csv(path) if suffix in DELIMITERS else read_json(path)


def _is_table(path: Path) -> bool:
    """True for a folder, and for a name that may be on the hub."""
    is_name = HUB_NAME.fullmatch(str(path)) is not None and path.suffix.lower() not in FILES
    return path.is_dir() or is_name


def source_files(source: str | Path) -> dict[str, Path]:
    """Files of a source by name, for digests; none for a name on the hub."""
    path = Path(source)
    if not path.is_dir():
        return {path.name: path} if path.is_file() else {}
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    names = {str(file.relative_to(path)): file for file in files}
    return {name: file for name, file in names.items() if not f"/{name}".count("/.")}

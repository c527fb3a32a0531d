"""Tables of the `datasets` library: Parquet, saved data sets, folders of data files, the hub.

Needs the extra `data`: pip install "elbo-rl[data]".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from model.data.record import DataError, Record

SAVED = ("dataset_dict.json", "state.json")  # files that mark a folder as written by `save_to_disk`
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def library(name: str, source: object) -> ModuleType:
    """A library of the extra `data`; a `DataError` that names the extra if not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        fix = 'install the extra `data`, pip install "elbo-rl[data]"'
        raise DataError(f"{source} is read by the library `{name}` ({error}): {fix}") from error


def read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Record]:
    """Records of a Parquet file."""
    parquet = library("pyarrow.parquet", path)
    number = 0
    try:
        file = parquet.ParquetFile(path)
        names = _to_read(columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=1_000, columns=names):
            for values in batch.to_pylist():
                yield Record(f"{path}, row {number}", values)
                number += 1
    except (OSError, ValueError, RuntimeError) as error:  # the errors of pyarrow
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}, row {number}: not read as Parquet ({error})") from error


def read_dataset(
    source: str,
    columns: Sequence[str] | None,
    split: str | None,
    config: str | None,
    revision: str | None,
) -> Iterator[Record]:
    """Records of a folder, or of a data set on the hub.

    Args:
        source: folder that `save_to_disk` wrote, folder of data files, or name on the hub.
        columns: names of the columns to read; None for all.
        split: see `read_prompts`, as for config and revision.
    """
    datasets = library("datasets", source)
    is_saved = any((Path(source) / name).is_file() for name in SAVED)
    try:
        if is_saved:
            loaded = datasets.load_from_disk(source)
        else:
            loaded = datasets.load_dataset(source, config, revision=revision)
    except Exception as error:  # of files, of the network, of pyarrow
        cause = f": {error.__cause__}" if error.__cause__ else ""
        where = "" if Path(source).is_dir() else ": no file or folder of that name, and on the hub"
        raise DataError(f"{source}{where}: {type(error).__name__}: {error}{cause}") from error
    if is_saved and (config or revision):
        raise DataError(f"{source} was written by `save_to_disk`: it has no config or revision")
    table, name = _split(loaded, split, source)
    if (names := _to_read(columns, table.column_names)) is not None:
        table = table.select_columns(names)
    for number in range(len(table)):
        place = f"{source}, {name}row {number}"
        try:
            values = table[number]
        except Exception as error:  # of the decoders of images, sounds and videos
            fix = "name the columns to read, without images, sounds and videos"
            raise DataError(f"{place}: {type(error).__name__}: {error}: {fix}") from error
        yield Record(place, values)


def _to_read(columns: Sequence[str] | None, names: Sequence[str]) -> list[str] | None:
    """Columns to read; None for all, also if one is missing, so that an error shows all names."""
    is_complete = columns is not None and set(columns) <= set(names)
    return list(columns or ()) if is_complete else None


def _split(loaded: Any, split: str | None, source: str) -> tuple[Any, str]:
    """The table of a split, and the beginning of the places of its rows."""
    if not isinstance(loaded, Mapping):
        if split is not None:
            raise DataError(f"{source} is one data set without splits, and split is {split!r}")
        return loaded, ""
    default = next(iter(loaded)) if len(loaded) == 1 else "train"
    name = default if split is None else split
    if name not in loaded:
        raise DataError(
            f"{source} has the splits {', '.join(loaded)}, expected one of them: split is {split!r}"
        )
    return loaded[name], f"split {name}, "

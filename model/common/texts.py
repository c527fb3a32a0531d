"""Texts and plain data as arguments, and the lines of files; refused by name otherwise.

Plain data are texts, numbers, truth values, None, and lists and dicts of these, as JSON holds.
"""

import math
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

SHOWN = 120  # number of characters of a value that an error quotes


class TextFileError(ValueError):
    """A file does not exist, or is no text in UTF-8."""


def listed_texts(name: str, texts: object, *, at_least: int = 1) -> list[str]:
    """A list of texts from any iterable of texts: a list, an array, a series.

    Errors name the caller, `name`, and the index of a value that is no text.

    Raises:
        TypeError: if an element is no text, or `texts` is no sequence.
        ValueError: if there are fewer than `at_least` texts, or one has half of a surrogate pair.
    """
    is_one = isinstance(texts, str | bytes | bytearray | Mapping | Set)
    is_one = is_one or getattr(texts, "ndim", 1) == 0
    listed = list(texts) if isinstance(texts, Iterable) and not is_one else None
    if listed is None or len(listed) < at_least:
        kind = TypeError if listed is None and not isinstance(texts, str) else ValueError
        raise kind(f"{name} got {_shown(texts)}, expected a non-empty list of strings")
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            shown = f"{_shown(text)} at index {index}"
            raise TypeError(f"{name} got {shown}, expected a text{hint(text)}")
        check_unicode(text, f"text {index}")
    return [str(text) for text in listed]


def check_unicode(text: str, where: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise ValueError(
            f"{where} has {text[fault.start]!r} at character {fault.start}, half of a surrogate "
            "pair, expected whole characters. Was the text cut within an emoji?"
        ) from fault


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file in UTF-8, with the line ends of any system; see `read_text`."""
    return split_lines(read_text(path))


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends, which may be of any system."""
    return re.split(r"\r\n|\n|\r", text)


def read_text(path: str | Path) -> str:
    """A text file in UTF-8; a `TextFileError` with line and byte otherwise.

    A byte order mark is allowed, and is no part of the text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TextFileError(f"{path}: {error.strerror}, expected a text file") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "Latin-1 or Windows-1252"
        raise TextFileError(
            f"{path}, line {line} is not UTF-8 text: byte {column + 1} of the line is "
            f"0x{data[error.start]:02x}. Is the file in {kind}? Save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TextFileError(f"{path}, line {line} has a zero byte. Is the file in UTF-16?")
    return text


def repr_of(value: object) -> str:
    """The `repr` of an object without its place in memory."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def quoted(value: object) -> str:
    """The beginning of a value, for an error."""
    try:
        text = repr_of(value)
    except ValueError:  # Python refuses to write integers of some thousand digits
        return f"a {type(value).__name__} too large to write"
    return f"{text[:SHOWN]}{'...' if len(text) > SHOWN else ''}"


def table_cell(value: object) -> str:
    """A value as a cell of a table in Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _shown(value: object) -> str:
    return f"{quoted(value)} ({type(value).__name__})"


def hint(value: object) -> str:
    """The likely fix of a value that is no text."""
    if isinstance(value, bytes):
        return ": decode it first"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ": a missing value? Leave it out, or write an empty text"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return ": make texts of messages by `apply_chat_template(messages, tokenize=False)`"
    return ", and no pair or list of them" if isinstance(value, tuple | list) else ""


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

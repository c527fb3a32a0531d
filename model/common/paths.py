"""Paths in saved texts: an absolute path of this machine is never written.

| path of the text | written as |
|---|---|
| relative | as it is |
| absolute | `{run}/../../prior`, relative to the folder of the file |
| absolute, with nothing but the root in common with that folder | `{elsewhere}/prior` |
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN, ELSEWHERE = "{run}", "{elsewhere}"
_IN_ARGUMENT = re.compile(r"(^(?:--[\w-]+ )?|[:=])(/[^:\n]*)")
_IN_PROSE = re.compile(r"()(?<![\w./}~])(/[^\s:,'\"]+)")
_RUN = re.compile(rf"{re.escape(RUN)}[^:\n]*")


def portable(value: Any, folder: Path) -> Any:
    """A JSON value, such as an argument, with the absolute paths of its texts as above.

    A path begins a text, or follows a colon as in `function:/home/me/my.py:kindness`.

    Args:
        folder: folder of the file that will hold the value.
    """
    start = os.path.abspath(folder)

    def relative(path: str) -> str:
        if os.path.commonpath([start, path]) == os.path.sep:
            return f"{ELSEWHERE}/{Path(path).name}"
        return f"{RUN}/{os.path.relpath(path, start)}"

    return _in_texts(value, lambda text: _IN_ARGUMENT.sub(_existing(relative), text))


def expanded(value: Any, folder: Path) -> Any:
    """Inverse of `portable`, but for paths elsewhere, for a file that is in `folder` now."""
    start = os.path.abspath(folder)

    def absolute(match: re.Match[str]) -> str:
        return os.path.normpath(start + match[0].removeprefix(RUN))

    return _in_texts(value, lambda text: _RUN.sub(absolute, text))


def without_folders(text: str) -> str:
    """The text with each absolute path that exists on this machine cut to its last part."""
    return _IN_PROSE.sub(_existing(lambda path: Path(path).name), text)


def _existing(write: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    """Replacement of a match: the longest beginning that exists is written anew."""

    def replaced(match: re.Match[str]) -> str:
        before, text = match.groups()
        ends = [len(text), *(end.start() for end in re.finditer(r"[\s,=<>'\")]", text))]
        for end in sorted(ends, reverse=True):
            path = text[:end]
            if path.strip("/") and os.path.exists(path):
                return before + write(os.path.normpath(path)) + text[end:]
        return match[0]

    return replaced


def _in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The JSON value with each text changed, also the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_in_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _in_texts(item, change) for key, item in value.items()}
    return value

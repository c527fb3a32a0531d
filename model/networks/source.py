"""The place of a checkpoint: a folder on this machine, or a name on the hub."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

CONFIGS = ("config.json", "adapter_config.json")
PATIENCE = 5.0
"""Seconds that the hub has to answer; the hub's own client would try for most of a minute."""
TRUST = "to run it, pass trust_remote_code=True (--trust-remote-code on the command line)"
_OTHER_KIND = re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+)'>.*?: (\w+)\.")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class PretrainedError(OSError, ValueError):
    """A checkpoint cannot be loaded whole: absent, damaged, incomplete, or of another kind."""


def find_checkpoint(name_or_path: str | os.PathLike[str]) -> str:
    """The folder of a checkpoint, or its name on the hub, or a `PretrainedError`."""
    if not isinstance(name_or_path, str | os.PathLike):
        kind = type(name_or_path).__name__
        raise TypeError(f"name_or_path is a {kind}, expected a folder or a name on the hub")
    text = str(os.fspath(name_or_path))
    path = os.path.expanduser(text)
    if text and os.path.isdir(path):
        return path
    if os.path.exists(path):
        raise PretrainedError(f"{text} is a file, expected the folder that the file is in")
    if isinstance(name_or_path, os.PathLike) or _is_path(text):
        raise PretrainedError(f"there is no folder {text!r}: is the path right?")
    return text


def hub_name(name_or_path: str | None) -> str | None:
    """A name that means the same on every machine; None for a path of this machine."""
    path = os.path.expanduser(name_or_path or "")
    is_local = not name_or_path or os.path.exists(path) or _is_path(name_or_path)
    return None if is_local else name_or_path


def hub_options(source: str) -> dict[str, Any]:
    """Options of `transformers` for a source: the hub's cache alone if the hub is silent."""
    return {} if os.path.isdir(source) or _hub_answers() else {"local_files_only": True}


def _is_path(text: str) -> bool:
    """True if a text that names nothing on this machine can only be a path."""
    parent = os.path.dirname(text)
    return not _HUB_NAME.fullmatch(text) or (parent != "" and os.path.isdir(parent))


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # any error of names, proxies and connections
        return False
    return True


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; a `PretrainedError` if it is missing or damaged."""
    if not file.is_file():
        raise PretrainedError(f"{file.parent} has no {file.name}: is it the folder that was saved?")
    try:
        return load_file(file)
    except Exception as error:  # the library has its own kinds of errors
        raise PretrainedError(f"{file} is damaged: {error}") from error


@contextmanager
def refused_by_name(source: str, part: str) -> Iterator[None]:
    """Context that turns any error on loading a part of a source into a `PretrainedError`."""
    try:
        yield
    except PretrainedError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        if "trust_remote_code" in message:
            own = f"code of its own for the {part}, which is not run: {TRUST}"
            raise PretrainedError(f"{source} comes with {own}") from error
        if kinds := _OTHER_KIND.search(message):
            fault = f"its config.json is a {kinds[1]}, which {kinds[2]} does not load"
            fix = "or load the network by its own class, and pass it on with its tokenizer"
            expected = f"expected a network of that kind; {fix}"
            raise PretrainedError(
                f"cannot load the {part} of {source}: {fault}: {expected}"
            ) from error
        is_folder = os.path.isdir(source)
        if is_folder and not any((Path(source) / name).exists() for name in CONFIGS):
            fault = f"the folder has no network, expected {' or '.join(CONFIGS)} in the folder"
            files = [file for name in CONFIGS for file in Path(source).glob(f"*/{name}")]
            inner = sorted(file.parent.name for file in files)
            fix = f", as in its folder {inner[0]!r}" if inner else ""
            raise PretrainedError(f"cannot load the {part} of {source}: {fault}{fix}") from error
        where = "" if is_folder else ", which is no folder here, from the hub or its cache"
        reason = f"{type(error).__name__}: {message[:600]}"
        raise PretrainedError(f"cannot load the {part} of {source}{where}: {reason}") from error

"""Inputs of a run from outside its folder: the files that its arguments name. A resume says them first, and refuses others."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import model
from model.common.digests import MANIFEST, file_digest

HERE = Path(model.__file__).parent
"""Files in here come with the project."""
MISSING = "missing"
Digests = dict[str, dict[str, str]]


class Input(NamedTuple):
    """Files that an argument names.

    Attributes:
        option: the argument, as it was given.
        files: by what they are called in a digest, which is no path of this machine.
        runs: whether they are code, which runs, or are loaded.
    """

    option: str
    files: dict[str, Path]
    runs: bool = False


def digests_of(inputs: Iterable[Input]) -> Digests:
    """SHA-256 of every file, by option and name."""
    return {
        entry.option: {
            name: file_digest(path) if path.is_file() else MISSING
            for name, path in entry.files.items()
        }
        for entry in inputs
    }


def check_unchanged(
    saved: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> None:
    """Exit with the first option whose files are not those that the run was made with."""
    for option in dict.fromkeys([*saved, *now]):
        before, after = saved.get(option, {}), now.get(option, {})
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        if changed and before and all(after.get(name, MISSING) == MISSING for name in before):
            raise SystemExit(
                f"{option}: the files that the run was made with are missing, first {changed[0]}. A relative path is looked up "
                f"from {Path.cwd()}: go where the run was started, or put the files back"
            )
        if changed:
            raise SystemExit(
                f"{option}: {', '.join(changed[:4])} changed since the run was made, and a resume would mix two problems. Put "
                "back what was there, or start another run"
            )


def say(inputs: Iterable[Input], folder: Path) -> None:
    """Print what is run and what is loaded from outside a run's folder, before it is."""
    for entry in inputs:
        places = {
            str(path if entry.runs else path.parent)
            for path in entry.files.values()
            if HERE not in path.parents
        }
        if places or not entry.files:
            verb = "runs" if entry.runs else "loads"
            print(
                f"{folder} names {entry.option}: {verb} {', '.join(sorted(places)) or 'what is not in a folder'}"
            )


def one_file(path: Path) -> dict[str, Path]:
    """A file by its name."""
    return {path.name: path}


def checkpoint_files(path: Path, prefix: str = "") -> dict[str, Path]:
    """The files of a folder that a network is loaded from; none if it is no folder, as a name on the hub."""
    if not path.is_dir():
        return {}
    unread = (".md", MANIFEST)
    files = [
        file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")
    ]
    return {prefix + file.name: file for file in files if not file.name.endswith(unread)}


def code_files(place: str) -> dict[str, Path]:
    """A file of code, or the file of a module, and what stands beside it and is imported."""
    path = Path(place) if place.endswith(".py") else _of_module(place)
    if path is None:
        return {}
    files = {path.name: path}
    for imported in _imported(path, path.parent, set()):
        files.setdefault(str(imported.relative_to(path.parent)), imported)
    return files


def _of_module(name: str) -> Path | None:
    """Found without running the packages around it."""
    root, *inner = name.split(".")
    spec = find_spec(root)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in inner:
        folder = path.parent if path.name == "__init__.py" else path.with_suffix("")
        path = (
            folder / f"{part}.py"
            if (folder / f"{part}.py").is_file()
            else folder / part / "__init__.py"
        )
    return path


def _imported(path: Path, folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Files in `folder` that a file imports, and those that they import."""
    seen.add(path)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # said when it is run
    for name in _names(tree):
        here = [folder / f"{name}.py", *sorted((folder / name).rglob("*.py"))]
        for file in here:
            if file.is_file() and file not in seen:
                yield file
                yield from _imported(file, folder, seen)


def _names(tree: ast.Module) -> Iterator[str]:
    """The first part of the name of every module that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]

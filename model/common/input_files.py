"""Files behind the name of a network, or behind the code of a function, for digests."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from model.common.files import MANIFEST


def checkpoint_files(path: Path, prefix: str = "") -> dict[str, Path]:
    """Files of a folder that a network is loaded from, by name; none for a name on the hub."""
    files = [file for file in sorted(path.glob("[!.]*")) if file.is_file()]
    unread = (".md", MANIFEST)
    return {prefix + file.name: file for file in files if not file.name.endswith(unread)}


def code_files(argument: str) -> dict[str, Path]:
    """The file of `FILE.py:NAME` or `MODULE:NAME`, and the imported files beside that file."""
    place = argument.rpartition(":")[0]
    path = Path(place) if place.endswith(".py") else _file_of_module(place)
    if path is None:
        return {}
    files = {path.name: path}
    for imported in _imported_files(path, path.parent, set()):
        files.setdefault(str(imported.relative_to(path.parent)), imported)
    return files


def _file_of_module(name: str) -> Path | None:
    """File of a module, without running the packages around it."""
    root, *inner = name.split(".")
    spec = find_spec(root)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in inner:
        folder = path.parent if path.name == "__init__.py" else path.with_suffix("")
        file = folder / f"{part}.py"
        path = file if file.is_file() else folder / part / "__init__.py"
    return path


def _imported_files(path: Path, folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Files in a folder that a file imports, directly or through another file."""
    seen.add(path)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # running the file reports the error
    for name in _imported_names(tree):
        for file in [folder / f"{name}.py", *sorted((folder / name).rglob("*.py"))]:
            if file.is_file() and file not in seen:
                yield file
                yield from _imported_files(file, folder, seen)


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """First part of the name of every imported module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]

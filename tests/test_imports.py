"""Files import from files: no file imports a face, `__init__`, of its own top-level package.

The other rules on imports are contracts in `pyproject.toml`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of each import; the name is empty for `import MODULE`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def is_face(module: str, name: str) -> bool:
    """True if the name is not a file or folder of the package, but defined in `__init__.py`."""
    folder = ROOT / module.replace(".", "/")
    return folder.is_dir() and not (folder / name).is_dir() and not (folder / f"{name}.py").exists()


@pytest.mark.parametrize("package", ["model", "guides", "inference", "experiments"])
def test_no_file_imports_the_face_of_its_own_package(package):
    faults = [
        f"{path.relative_to(ROOT)} imports {name} from {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
        for module, name in imports(ast.parse(path.read_text(encoding="utf-8")))
        if module.split(".")[0] == package and is_face(module, name)
    ]
    assert faults == []

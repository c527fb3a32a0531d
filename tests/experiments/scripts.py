"""The scripts, for tests that run over all of them."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import experiments
from experiments.shared.command_line import Arguments

FOLDER = Path(experiments.__file__).parent
FILES = {path.stem: path for path in FOLDER.glob("*.py") if path.stem != "__init__"}
FILES |= {path.parent.name: path for path in FOLDER.glob("*/__main__.py")}
NAMES = sorted(FILES.keys() - {"minimal"})
"""Scripts with arguments; `minimal` takes none."""


def arguments_of(name: str) -> type[Arguments]:
    """The dataclass of a script's arguments."""
    return _types_of_main(name)["args"]


def returned_by(name: str) -> Any:
    """The type that a script returns, of which findings decide the exit code."""
    return _types_of_main(name)["return"]


def main_of(name: str) -> Callable[[Arguments], Any]:
    """The function of a script."""
    main = ".__main__" if FILES[name].stem == "__main__" else ""
    return import_module(f"experiments.{name}{main}").main


def _types_of_main(name: str) -> dict[str, Any]:
    return get_type_hints(main_of(name))

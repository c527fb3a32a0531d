"""The scripts, for tests that run over all of them."""

from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import experiments
from experiments.shared.command_line import Arguments

FOLDER = Path(experiments.__file__).parent
FILES = {path.stem: path for path in FOLDER.glob("*.py") if path.stem != "__init__"}
FILES |= {path.parent.name: path for path in FOLDER.glob("*/__main__.py")}
NAMES = sorted(FILES.keys() - {"minimal"})
"""Scripts with arguments; `minimal` takes none."""


def arguments_of(name: str) -> type[Arguments]:
    """The dataclass of a script's arguments."""
    main = ".__main__" if FILES[name].stem == "__main__" else ""
    module = import_module(f"experiments.{name}{main}")
    return get_type_hints(module.main)["args"]

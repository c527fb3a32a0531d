"""The scripts, for tests that run over all of them."""

from importlib import import_module
from pathlib import Path

import experiments
from experiments.arguments import Arguments

FOLDER = Path(experiments.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))


def arguments_of(name: str) -> type[Arguments]:
    """The dataclass of a script's arguments."""
    module = import_module(f"experiments.{name}")
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Arguments)]
    [found] = [cls for cls in classes if cls.__module__ == module.__name__]
    return found

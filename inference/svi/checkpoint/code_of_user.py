"""The user's code: whose a function, a class or a module is.

The user's code is all code outside this project, installed packages and the standard library.
"""

import functools
import sys
import sysconfig
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

OURS = {"model", "guides", "inference", "experiments"}
_STANDARD = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
_PACKAGES = {"site-packages", "dist-packages"}  # of this environment and of others


def is_users(thing: Any) -> bool:
    """True for a function, class or module of the user."""
    return not is_ours(thing) and not is_installed(thing)


def is_ours(thing: Any) -> bool:
    """True for a function, class or module of this project."""
    return _module_of(thing).split(".")[0] in OURS


def is_installed(thing: Any) -> bool:
    """True for a part of the standard library or of an installed package."""
    name = _module_of(thing)
    if isinstance(thing, FunctionType):  # a decorated function has the module of another
        file = thing.__code__.co_filename
    elif name == "__main__" or name.split(".")[0] in sys.stdlib_module_names:
        return name != "__main__"
    else:
        file = getattr(sys.modules.get(name), "__file__", None) or ""
    path = Path(file).resolve()
    folders = _STANDARD | _targets(tuple(sys.path))
    return not _PACKAGES.isdisjoint(path.parts) or any(map(path.is_relative_to, folders))


@functools.cache
def _targets(folders: tuple[str, ...]) -> set[Path]:
    """Folders of `pip install --target`; the current folder has the user's code."""
    return {Path(f).resolve() for f in folders if any(Path(f).glob("*.dist-info"))} - {Path.cwd()}


def _module_of(thing: Any) -> str:
    return thing.__name__ if isinstance(thing, ModuleType) else thing.__module__ or ""

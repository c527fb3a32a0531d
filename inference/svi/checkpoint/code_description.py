"""Descriptions of code that are the same in every process of one version of Python."""

import sys
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from model.common.digests import text_digest

OURS = {"model", "guides", "inference", "experiments"}
_SCHEMES = ("stdlib", "platstdlib", "purelib", "platlib")
_TARGETS = {folder for folder in sys.path if any(Path(folder).glob("*.dist-info"))}
INSTALLED = tuple(
    {sysconfig.get_path(name) for name in _SCHEMES} | {str(Path(f).resolve()) for f in _TARGETS}
)
"""Folders of the standard library and of installed packages, also by `pip install --target`."""
PACKAGES = {"site-packages", "dist-packages"}
"""Names of folders of packages of another environment, such as the system's, that this one uses."""


def code_of(function: Any) -> str:
    """Name of a function and digest of its compiled code; class of a callable object."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function).__name__
    return f"{code.co_name} #{text_digest(repr(_compiled(code)))}"


def names_in(code: CodeType) -> set[str]:
    """Names of variables and attributes in a function's code, inner functions included."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def names_read(function: FunctionType) -> set[str]:
    """Names in a function's code, and in the user's functions that it calls by name."""
    names: set[str] = set()
    waiting, seen = [function], {function}
    while waiting:
        caller = waiting.pop()
        names_here = names_in(caller.__code__)
        names |= names_here
        for other in map(caller.__globals__.get, names_here):
            if isinstance(other, FunctionType) and other not in seen:
                seen.add(other)
                if not (is_ours(other) or is_installed(other)):
                    waiting.append(other)
    return names


def is_ours(thing: Any) -> bool:
    """True for a class or function of this project."""
    return (thing.__module__ or "").split(".")[0] in OURS


def is_installed(thing: Any) -> bool:
    """True for a class or function of the standard library or of an installed package."""
    if isinstance(thing, FunctionType):
        return _is_below_installed(thing.__code__.co_filename)
    name = thing.__module__
    if name == "builtins" or name in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return name != "__main__" and file is not None and _is_below_installed(file)


def is_users_module(module: ModuleType) -> bool:
    """True for a module outside this project, the standard library and installed packages."""
    file = getattr(module, "__file__", None)
    ours = module.__name__.split(".")[0] in OURS
    return file is not None and not ours and not _is_below_installed(file)


def _is_below_installed(file: str) -> bool:
    path = Path(file).resolve()
    return str(path).startswith(INSTALLED) or not PACKAGES.isdisjoint(path.parts)


def _compiled(code: Any) -> Any:
    """Contents of compiled code, or of one of the constants in it."""
    if isinstance(code, CodeType):
        constants = [_compiled(constant) for constant in code.co_consts]
        return (code.co_code, constants, code.co_names, code.co_varnames)
    return sorted(map(repr, code)) if isinstance(code, frozenset) else code

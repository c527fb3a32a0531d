"""Code in texts that are the same in every process of one version of Python."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from model.common.digests import text_digest

OURS = {"model", "guides", "inference", "experiments"}
INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def code_of(function: Any) -> str:
    """A function's name and the digest of its compiled code; of a callable object the class."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function).__name__
    return f"{code.co_name} #{text_digest(repr(_compiled(code)))}"


def names_in(code: CodeType) -> set[str]:
    """All names that are looked up in the code of a function and of those inside it: variables and attributes."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def names_read(function: FunctionType) -> set[str]:
    """All names that are looked up in the code of a function and of those of the user's that it calls by name."""
    found: set[str] = set()
    waiting, seen = [function], {function}
    while waiting:
        names = names_in(waiting[-1].__code__)
        variables = waiting.pop().__globals__
        found |= names
        for other in (variables.get(name) for name in names):
            if (
                isinstance(other, FunctionType)
                and other not in seen
                and not (is_ours(other) or is_installed(other))
            ):
                waiting.append(other)
                seen.add(other)
    return found


def is_ours(thing: Any) -> bool:
    """Whether a class or function is of this project."""
    return (thing.__module__ or "").split(".")[0] in OURS


def is_installed(thing: Any) -> bool:
    """Whether a class or function is of the standard library or of an installed package."""
    if isinstance(thing, FunctionType):
        return thing.__code__.co_filename.startswith(INSTALLED)
    if thing.__module__ == "builtins" or thing.__module__ in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    return (
        thing.__module__ != "__main__"
        and file is not None
        and str(Path(file).resolve()).startswith(INSTALLED)
    )


def is_users_module(module: ModuleType) -> bool:
    """Whether a module is neither of this project nor of the standard library nor of an installed package."""
    file = getattr(module, "__file__", None)
    ours = module.__name__.split(".")[0] in OURS
    return file is not None and not ours and not str(Path(file).resolve()).startswith(INSTALLED)


def _compiled(code: CodeType) -> tuple[Any, ...]:
    return (
        code.co_code,
        [_constant(constant) for constant in code.co_consts],
        code.co_names,
        code.co_varnames,
    )


def _constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _compiled(constant)
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant

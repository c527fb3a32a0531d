"""Parts that describe an object: attributes, members of its class, variables and code of functions.

Descriptions of code are the same in every process of one version of Python.
"""

import argparse
import inspect
import re
import sys
import sysconfig
from dataclasses import is_dataclass
from numbers import Number
from pathlib import Path, PurePath
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from model.common.files import text_digest

PLAIN = (type(None), Number, str, bytes, range, torch.dtype, torch.Size, PurePath, re.Pattern)
"""Types of objects that are their own description."""
DATA = (*PLAIN, type, Tensor, np.ndarray, tuple, list, dict, nn.Module, PreTrainedTokenizerBase)
"""Types of attributes that describe an object of an installed package."""
STATE = {"_known", "_applied", "_cache", "training"}
"""Attributes of the project's own objects without effect on the result."""
SPEED = {"in_step", "gathers_draws", "batch_size", "cache_size", "max_cached", "splits_head"}
"""Attributes that change the cost of an object alone."""
OF_MODULES = {*vars(nn.Module()), "__dict__", "__weakref__"}
"""Attributes in which torch keeps the parts of a module."""


def members_of(kind: type) -> dict[str, Any]:
    """Methods and attributes of a class and its bases, if they are the user's."""
    members: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if is_ours(base) or is_installed(base):
            continue
        for name, member in vars(base).items():
            for wrapper in ("func", "fget", "__func__"):  # cached property, property, static method
                member = getattr(member, wrapper, member)
            if isinstance(member, FunctionType):
                members[f"{name}()"] = member
            elif not name.startswith("__") and not inspect.isdatadescriptor(member):
                members[name] = member
    return members


def counts(kind: type, name: str, part: Any) -> bool:
    """True if an attribute of an object describes the object."""
    if name in SPEED or (name in STATE and is_ours(kind)):
        return False
    return not is_installed(kind) or (isinstance(part, DATA) and not name.startswith("_"))


def as_read(part: Any, names: set[str]) -> Any:
    """A variable as a function that reads these names sees the variable.

    The user's modules and holders of settings are reduced to their variables of these names;
    a holder without such a name stays whole.
    """
    if isinstance(part, ModuleType) and is_users_module(part):
        return _variables(part, names, set())
    settings = isinstance(part, argparse.Namespace | SimpleNamespace)
    settings |= is_dataclass(part) and not callable(part)
    if not settings or not hasattr(part, "__dict__"):
        return part
    return {name: value for name, value in vars(part).items() if name in names} or part


def _variables(module: ModuleType, names: set[str], seen: set[ModuleType]) -> dict[str, Any]:
    """Variables of a module by these names, and of the user's modules among them."""
    variables: dict[str, Any] = {}
    for name in vars(module).keys() & names:
        part = vars(module)[name]
        if not isinstance(part, ModuleType):
            variables[name] = part
        elif is_users_module(part) and part not in seen:
            variables[name] = _variables(part, names, seen | {module})
    return variables


def attributes_of(value: Any) -> dict[str, Any]:
    """Attributes of an object, without those in which torch keeps the parts of a module."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    attributes |= getattr(value, "__dict__", {})
    return {name: part for name, part in attributes.items() if name not in OF_MODULES}


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

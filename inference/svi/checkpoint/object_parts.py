"""Parts of an object that describe the object: attributes, members of its class, variables read."""

import argparse
import inspect
import re
from dataclasses import is_dataclass
from numbers import Number
from pathlib import PurePath
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from inference.svi.checkpoint.code_description import is_installed, is_ours, is_users_module

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

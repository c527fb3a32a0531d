"""Description of an object: a text for each of its parts, by name, the same in every process.

    {"": "AlignmentModel", "_beta": "0.3", "prior.network.frozen weights": "wte #5a0c...", ...}

| part | described by |
|---|---|
| numbers, texts, tensors | value, numbers to 9 digits |
| modules | attributes, parts and tensors |
| objects | class and attributes, and the members of the user's classes |
| sets, keys of a dict | their items; of objects the class, and a digest of the parts |
| functions | closure; the user's functions also by compiled code, defaults, variables in the code |
| settings, modules of the user | the variables whose names are in the user's code: `args.weight` |

`code_of_user.py` says which code is the user's. Compiled code depends on the version of Python.

The name of a private list, dict, set or None, which may be a memory, ends in "?": `_words?`.
"""

import argparse
import functools
import inspect
import json
import logging
import re
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from numbers import Number
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from inference.svi.checkpoint.code_of_user import is_installed, is_ours, is_users
from inference.svi.checkpoint.value_texts import digest, plain, tokenizer_digest
from model.common.compiled_code import compiled, names_in
from model.common.files import text_digest
from model.common.paths import without_folders
from model.common.texts import repr_of
from model.networks.sharded_modules import class_of

Parts = dict[str, Any]

PLAIN = (type(None), Number, str, bytes, range, torch.dtype, torch.Size, PurePath, re.Pattern)
"""Types of objects that are their own description."""
DATA = (*PLAIN, type, Tensor, np.ndarray, tuple, list, dict, nn.Module, PreTrainedTokenizerBase)
"""Types of attributes that describe an object of an installed package."""
COST = {"in_step", "gathers_draws", "batch_size", "cache_size", "max_cached", "splits_head"}
CACHES = {"_known", "_applied", "_cache"}
"""Attributes of the project's own objects without effect on the result."""
PLACE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Settings of a network that depend on the place it was loaded from."""
MEMORY = dict | list | set
"""Types of private parts that may be memories, which are filled by use."""
DEPTH = 60  # largest depth of objects in objects
MANY = 200  # number of texts above which a list or dict is described by their digest
_OF_TORCH = {*vars(nn.Module()), "__dict__", "__weakref__"}  # the parts of a module, and slots


def describe(value: Any, *, trains: bool) -> dict[str, str]:
    """Description of an object, whose own text has the empty name.

    Args:
        value: any object.
        trains: True to describe parameters that require a gradient by name, shape and type alone.
    """
    description = _Description(trains)
    description.add("", value)
    description.add_what_is_read()
    return description.texts


class _Description:
    """The texts so far. An object that comes again is described by the name of its first place.

    Args:
        in_set: True for the description of one item of a set.
    """

    def __init__(self, trains: bool, *, in_set: bool = False) -> None:
        self.texts: dict[str, str] = {}
        self._trains, self._in_set = trains, in_set
        self._objects: dict[int, tuple[Any, str]] = {}  # with their first names, by id
        self._holders: dict[str, Any] = {}  # settings and the user's modules, by name
        self._read: set[str] = set()  # names in the user's code

    def add(self, name: str, value: Any) -> None:
        """Describe an object and its parts."""
        if isinstance(value, PLAIN):
            self.texts[name] = plain(value)
            return
        text, parts = self._text_and_parts(name, value)
        _, first = self._objects.get(id(value), (None, "?"))
        # whether a memory has the object depends on its use
        self.texts[name] = f"{text} as {first}" if parts and first and "?" not in first else text
        if id(value) in self._objects or name.count(".") > DEPTH:
            return
        self._objects[id(value)] = value, name
        start = len(self.texts)
        self._add_parts(name, parts)
        if isinstance(value, list | tuple | dict) and len(self.texts) - start > MANY:
            below = {key: self.texts.pop(key) for key in list(self.texts)[start:]}
            self.texts[name] = f"{text} #{text_digest(str(below))}"

    def add_what_is_read(self) -> None:
        """Describe the variables of settings and modules whose names are in the user's code.

        Settings without such a name are described by all variables.
        """
        size = 0
        while len(self.texts) > size:  # a variable may be a function, whose code has more names
            size = len(self.texts)
            for name, holder in list(self._holders.items()):
                variables = _variables(holder).items()
                read = {key: v for key, v in variables if key.removesuffix("()") in self._read}
                self._add_parts(name, read)
                is_known = any(key.startswith(f"{name}.") for key in self.texts)
                if len(self.texts) == size and not is_known:
                    self._add_parts(name, {} if isinstance(holder, ModuleType) else dict(variables))

    def _add_parts(self, name: str, parts: Parts) -> None:
        for key, part in parts.items():
            is_memory = key.startswith("_") and isinstance(part, MEMORY | None)
            place = f"{name}.{key}{'?' if is_memory else ''}".removeprefix(".")
            if place not in self.texts:
                self.add(place, part)

    def _text_and_parts(self, name: str, value: Any) -> tuple[str, Parts]:
        """Text of an object without its parts, and its parts by name."""
        match value:
            case Tensor():
                return digest(value), {}
            case np.ndarray() if not value.dtype.hasobject:
                return f"{value.dtype} {value.shape} #{text_digest(value.tobytes().hex())}", {}
            case list() | tuple() if all(isinstance(item, PLAIN) for item in value):
                return f"({', '.join(map(plain, value))})", {}
            case list() | tuple():
                return f"{len(value)} items", {str(n): item for n, item in enumerate(value)}
            case np.ndarray():
                return f"{value.dtype} {value.shape}", {"items": value.tolist()}
            case dict():
                items = {
                    k if isinstance(k, str) else self._item(k): part for k, part in value.items()
                }
                return f"dict of {', '.join(items)}", items
            case set() | frozenset():
                return self._item(frozenset(value)), {}
            case Enum():
                return repr_of(value), _members_of(type(value))
            case type():
                return value.__name__, _members_of(value)
            case functools.partial():
                parts = {"function": value.func, "arguments": value.args, "options": value.keywords}
                return "partial", parts
            case MethodType():
                return "method", {"method": value.__func__, "object": value.__self__}
            case FunctionType():
                return self._function(value)
            case ModuleType():
                self._holders |= {name: value} if is_users(value) else {}
                return value.__name__, {}
            case logging.Logger() | torch.device() | torch.Generator():
                return type(value).__name__, {}
            case PreTrainedTokenizerBase():
                return tokenizer_digest(value), {}
            case transformers.PreTrainedModel():
                return class_of(value).__name__, self._network(value)
            case nn.Module():
                state = value.state_dict(keep_vars=True)
                tensors = self._tensors({k: v for k, v in state.items() if "." not in k})
                return type(value).__name__, _variables(value) | value._modules | tensors
        if _is_settings(value):
            self._holders[name] = value
            return type(value).__name__, {}
        if hasattr(value, "__wrapped__"):  # such as a cache around a function
            return type(value).__name__, {"function": value.__wrapped__}
        parts = _variables(value)
        return (type(value).__name__ if parts else repr_of(value)), parts

    def _item(self, item: Any) -> str:
        """Text of an item of a set, or of a key, that depends on no other item.

        An object below an item is described by its class alone where it is in a set again: in a
        graph whose nodes hold sets of nodes, every path would be described.
        """
        if isinstance(item, (*PLAIN, Enum)):
            return repr_of(item)
        if isinstance(item, tuple):
            return f"({', '.join(map(self._item, item))})"
        if isinstance(item, frozenset):
            return f"[{', '.join(sorted(map(self._item, item)))}]"
        if self._in_set:
            return type(item).__name__
        description = _Description(self._trains, in_set=True)
        description.add("", item)
        description.add_what_is_read()
        self._read |= description._read
        text = description.texts.pop("")
        parts = without_folders(str(sorted(description.texts.items())))
        return f"{text} #{text_digest(parts)}" if description.texts else text

    def _function(self, function: FunctionType) -> tuple[str, Parts]:
        code, parts = function.__code__, {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # a variable without a value yet
                parts[name] = cell.cell_contents
        if not is_users(function):
            return f"{function.__module__}.{function.__qualname__}", parts
        names, variables = names_in(code), function.__globals__
        self._read |= names
        if function.__defaults__ or function.__kwdefaults__:
            parts["default values"] = [function.__defaults__, function.__kwdefaults__]
        for name, part in vars(function).items():
            if name != "__wrapped__":
                parts[f"{function.__name__}.{name}"] = part
        parts |= {n: variables[n] for n in sorted(names & variables.keys() - parts.keys())}
        return f"{code.co_name} #{text_digest(repr(compiled(code)))}", parts

    def _network(self, network: "transformers.PreTrainedModel") -> Parts:
        """Settings, adapters and tensors of a network of `transformers`."""
        config = {k: v for k, v in network.config.to_dict().items() if k not in PLACE}
        adapters = {}
        for name, adapter in (getattr(network, "peft_config", None) or {}).items():
            options = adapter.to_dict() if hasattr(adapter, "to_dict") else adapter
            adapters[name] = {k: v for k, v in options.items() if k != "base_model_name_or_path"}
        parts = {"config": json.dumps(config, sort_keys=True, default=str), "adapter": adapters}
        return parts | self._tensors(network.state_dict(keep_vars=True))

    def _tensors(self, tensors: Parts) -> dict[str, str]:
        """Texts of all values, and of all tensors that the fit trains; no names of attributes."""
        texts: dict[str, list[str]] = {}
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor) and self._trains and tensor.requires_grad:
                text = f"{name} {tuple(tensor.shape)} {tensor.dtype}"
                texts.setdefault("trained weights", []).append(text)
            elif isinstance(tensor, Tensor):
                texts.setdefault("frozen weights", []).append(f"{name} {digest(tensor)}")
        return {kind: "; ".join(each) for kind, each in texts.items()}


def _is_settings(value: Any) -> bool:
    is_data = is_dataclass(value) and not callable(value) and is_users(type(value))
    return is_data or isinstance(value, argparse.Namespace | SimpleNamespace)


def _variables(value: Any) -> Parts:
    """Variables of a module of the user, or attributes and members of an object, that count."""
    if isinstance(value, ModuleType):
        return dict(sorted(vars(value).items()))
    kind = type(value)
    slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    attributes |= getattr(value, "__dict__", {})
    return _members_of(kind) | {k: part for k, part in attributes.items() if _counts(kind, k, part)}


def _counts(kind: type, name: str, part: Any) -> bool:
    """True if an attribute describes an object of a class. An empty memory does not."""
    if name in _OF_TORCH or (name in COST | CACHES and any(map(is_ours, kind.__mro__))):
        return False
    if name.startswith("_"):
        is_empty = isinstance(part, MEMORY) and not part
        return not is_empty and not is_installed(kind)
    return not is_installed(kind) or isinstance(part, DATA)


def _members_of(kind: type) -> Parts:
    """Methods and attributes of the user's classes among a class and its bases."""
    members: Parts = {}
    for base in filter(is_users, reversed(kind.__mro__)):
        for name, member in vars(base).items():
            for wrapper in ("func", "fget", "__func__"):  # cached property, property, static method
                member = getattr(member, wrapper, member)
            if isinstance(member, FunctionType):
                members[f"{name}()"] = member
            elif not name.startswith("__") and not inspect.isdatadescriptor(member):
                members[name] = member
    return members

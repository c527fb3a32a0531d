"""Descriptions of objects in texts that are the same in every process; see `inference.fingerprint` for what they go by."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from numbers import Number
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from inference.svi.checkpoint.code_description import (
    code_of,
    is_installed,
    is_ours,
    is_users_module,
    names_in,
    names_read,
)
from model.common.digests import tensors_digest

Leaves = dict[str, str]

PLAIN = (type(None), Number, str, bytes, range, torch.dtype, torch.Size, PurePath, re.Pattern)
DEPTH = 60  # of objects in objects; what is deeper is not looked into
DIGITS = (
    9  # of a number; multipliers that are solved for differ in the last ones between processors
)
MANY = 200  # items that are told one by one
STATE = {"_known", "_cache", "training"}
"""Attributes of the project's own objects that change nothing: what they remember."""
SPEED = {"batch_size", "cache_size", "max_cached"}
"""Attributes that change what a thing costs, and not what it is."""
UNSTABLE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Settings of a network that depend on where it was loaded from."""
ELSEWHERE = {"padding", "truncation"}
"""Parts of a tokenizer that each call sets anew."""
OF_MODULES = {*vars(nn.Module()), "__dict__", "__weakref__"}
"""Attributes in which torch keeps what a module is made of."""


def join(name: str, key: str) -> str:
    """The name of a part of a part."""
    return f"{name}.{key}" if name and key else name or key


class Description:
    """Describes objects. What was met before is not computed again, and what is inside itself is not followed."""

    def __init__(self) -> None:
        self.trains = False  # whether the fit trains parameters of the described object, whose values say nothing then
        self._done: dict[int, tuple[Any, Leaves]] = {}
        self._digests: dict[int, tuple[Tensor, int, str]] = {}
        self._depth = 0

    def forget(self) -> None:
        """Look at everything again, tokenizers and tensors that were not written to aside."""
        self._done = {
            key: entry
            for key, entry in self._done.items()
            if isinstance(entry[0], PreTrainedTokenizerBase)
        }

    def __call__(self, value: Any) -> Leaves:
        """Texts by the names of the parts of `value`; the empty name is that of the whole."""
        if isinstance(value, PLAIN):
            value = value.item() if isinstance(value, np.generic) else value
            return {"": repr(float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value)}
        if id(value) not in self._done:
            self._done[id(value)] = (value, {"": "itself"})
            self._depth += 1
            leaves = self._describe(value) if self._depth < DEPTH else {"": type(value).__name__}
            self._depth -= 1
            self._done[id(value)] = (value, leaves)
        return self._done[id(value)][1]

    def _describe(self, value: Any) -> Leaves:
        if isinstance(value, Tensor):
            return {"": self._tensor(value)}
        if isinstance(value, np.ndarray):
            return (
                {"": self._tensor(torch.as_tensor(value))}
                if _torch_has(value)
                else self._sequence(value.tolist())
            )
        if isinstance(value, list | tuple):
            return self._sequence(value)
        if isinstance(value, dict):
            return self._container({self._key(key): item for key, item in value.items()}, "dict")
        if isinstance(value, set | frozenset):
            return {"": str(sorted(str(self(item)) for item in value))}
        if isinstance(value, type):
            return self._parts(_members(value), value.__name__)
        if isinstance(value, ModuleType):
            return {"": value.__name__}
        if isinstance(value, logging.Logger):
            return {"": value.name}
        if isinstance(value, torch.device | torch.Generator):
            return {"": type(value).__name__}
        if isinstance(value, PreTrainedTokenizerBase):
            return {"": _tokenizer(value)}
        if isinstance(value, nn.Module):
            return self._module(value)
        return self._callable(value) if callable(value) else self._object(value)

    def _key(self, key: Any) -> str:
        return key if isinstance(key, str) else self(key).get("", type(key).__name__)

    def _parts(self, parts: dict[str, Any], kind: str = "") -> Leaves:
        leaves = {"": kind} if kind else {}
        for name in sorted(parts):
            leaves |= {join(name, key): leaf for key, leaf in self(parts[name]).items()}
        return leaves

    def _container(self, items: dict[str, Any], kind: str) -> Leaves:
        leaves = self._parts(items, kind)
        return leaves if len(leaves) <= MANY else {"": str(leaves)}

    def _sequence(self, values: Any) -> Leaves:
        """One text where all items are plain, else item by item."""
        values = values if isinstance(values, list | tuple) else [values]
        parts = [self(value) for value in values]
        if all(set(part) == {""} for part in parts):
            return {"": f"({', '.join(part[''] for part in parts)})"}
        return self._container(
            {str(n): value for n, value in enumerate(values)}, f"{len(values)} items"
        )

    def _tensor(self, tensor: Tensor) -> str:
        version = -1 if tensor.is_inference() else tensor._version
        if self._digests.get(id(tensor), (None, None))[1] != version:
            self._digests[id(tensor)] = (tensor, version, f"#{tensors_digest([('', tensor)])}")
        return self._digests[id(tensor)][2]

    def _module(self, module: nn.Module) -> Leaves:
        """A network of `transformers` by its settings and all its tensors, other modules part by part."""
        if isinstance(module, PreTrainedModel):
            settings = {
                key: value for key, value in module.config.to_dict().items() if key not in UNSTABLE
            }
            leaves = {
                "": type(module).__name__,
                "config": json.dumps(settings, sort_keys=True, default=str),
            }
            adapters = {
                name: _plain_config(adapter)
                for name, adapter in (getattr(module, "peft_config", None) or {}).items()
            }
            return (
                leaves
                | self._parts({"adapter": adapters})
                | self._tensors(module.state_dict(keep_vars=True).items())
            )
        unsaved = module._non_persistent_buffers_set
        buffers = {name: buffer for name, buffer in module._buffers.items() if name not in unsaved}
        modules = {name: part for name, part in module._modules.items() if part is not None}
        return (
            self._object(module)
            | self._parts(modules)
            | self._tensors((module._parameters | buffers).items())
        )

    def _tensors(self, tensors: Iterable[tuple[str, Any]]) -> Leaves:
        """Tensors of a module: values, but names, shapes and types of those that the fit trains."""
        there = [(name, tensor) for name, tensor in tensors if isinstance(tensor, Tensor)]
        trains = {name for name, tensor in there if self.trains and tensor.requires_grad}
        frozen = [f"{name} {self._tensor(tensor)}" for name, tensor in there if name not in trains]
        trained = [
            f"{name} {tuple(tensor.shape)} {tensor.dtype}"
            for name, tensor in there
            if name in trains
        ]
        return {
            name: "; ".join(texts)
            for name, texts in {"weights": frozen, "trained": trained}.items()
            if texts
        }

    def _object(self, value: Any) -> Leaves:
        """Class and attributes; of an object of an installed package only what is plain."""
        kind = type(value)
        attributes = _attributes(value)
        if not attributes and is_installed(kind) and " at 0x" not in (text := repr(value)):
            return {"": text}
        shown = {
            name if _is_private(name, part) else name.lstrip("_"): name
            for name, part in attributes.items()
        }
        kept = {
            new: attributes[name]
            for new, name in shown.items()
            if _counts(kind, name, attributes[name])
        }
        return self._parts(_members(kind) | kept, kind.__name__)

    def _callable(self, value: Any) -> Leaves:
        if isinstance(value, functools.partial):
            return self._parts(
                {"function": value.func, "arguments": value.args, "options": value.keywords},
                "partial",
            )
        if isinstance(value, MethodType):
            return self._parts({"method": value.__func__, "object": value.__self__})
        if isinstance(value, FunctionType):
            return self._function(value)
        if hasattr(value, "__wrapped__"):  # a cache around a function, for one
            return self._parts({"function": value.__wrapped__}, type(value).__name__)
        if inspect.isbuiltin(value) or inspect.ismethoddescriptor(value):
            return {"": value.__qualname__}
        return self._object(value)

    def _function(self, function: FunctionType) -> Leaves:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        read = names_read(function)
        parts = {name: _as_read(_content(cell), read) for name, cell in cells}
        if is_ours(function) or is_installed(function):
            return self._parts(parts, f"{function.__module__}.{function.__qualname__}")
        if function.__defaults__ or function.__kwdefaults__:
            parts["defaults"] = [function.__defaults__, function.__kwdefaults__]
        parts |= {
            f"{function.__name__}.{name}": part
            for name, part in vars(function).items()
            if name != "__wrapped__"
        }
        variables = function.__globals__
        for name in sorted(names_in(function.__code__) & variables.keys() - parts.keys()):
            part = _as_read(variables[name], read)
            if not isinstance(part, ModuleType):
                parts[name] = part
        return self._parts(parts, f"{function.__name__} {code_of(function)}")


def _is_private(name: str, part: Any) -> bool:
    """Whether a variable can be a cache; its name tells the fingerprint so."""
    return name.startswith("_") and isinstance(part, dict | list | set)


def _members(kind: type) -> dict[str, Any]:
    """Methods and attributes of a class and of those that it is made from, if they are the user's."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if is_ours(base) or is_installed(base):
            continue
        for name, member in vars(base).items():
            member = getattr(
                member, "__func__", getattr(member, "fget", getattr(member, "func", member))
            )
            if isinstance(member, FunctionType):
                found[f"{name}()"] = member
            elif not name.startswith("__") and not inspect.isdatadescriptor(member):
                found[name] = member
    return found


def _counts(kind: type, name: str, part: Any) -> bool:
    """Whether an attribute is part of what an object of a class is."""
    if name in SPEED or (name in STATE and is_ours(kind)):
        return False
    plain = isinstance(
        part,
        (*PLAIN, type, Tensor, np.ndarray, tuple, list, dict, nn.Module, PreTrainedTokenizerBase),
    )
    return not is_installed(kind) or (plain and not name.startswith("_"))


def _as_read(part: Any, names: set[str]) -> Any:
    """A variable as a function sees it that reads these names.

    A user's module is its variables by these names. A holder of settings is too, but is all of them if none has such a name.
    """
    if isinstance(part, ModuleType) and is_users_module(part):
        return _variables(part, names, set())
    holds = isinstance(part, argparse.Namespace | SimpleNamespace) or (
        is_dataclass(part) and not callable(part)
    )
    read = (
        {name: value for name, value in vars(part).items() if name in names}
        if holds and hasattr(part, "__dict__")
        else {}
    )
    return read or part


def _variables(module: ModuleType, names: set[str], seen: set[ModuleType]) -> dict[str, Any]:
    """Variables of a module by these names, and of the user's modules among them."""
    found: dict[str, Any] = {}
    for name in vars(module).keys() & names:
        part = vars(module)[name]
        if not isinstance(part, ModuleType):
            found[name] = part
        elif is_users_module(part) and part not in seen:
            found[name] = _variables(part, names, seen | {module})
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes of an object; of a module without those in which torch keeps its parts."""
    slots = [
        name
        for kind in type(value).__mro__
        for name in getattr(kind, "__slots__", ())
        if isinstance(name, str)
    ]
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(
        value, "__dict__", {}
    )
    return {name: part for name, part in attributes.items() if name not in OF_MODULES}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = {
            key: part for key, part in json.loads(backend.to_str()).items() if key not in ELSEWHERE
        }
    whole = [content, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]
    return json.dumps(whole, sort_keys=True, default=str)


def _plain_config(adapter: Any) -> Any:
    """The settings of an adapter of `peft`, without where its network was loaded from."""
    settings = adapter.to_dict() if hasattr(adapter, "to_dict") else adapter
    return {key: value for key, value in settings.items() if key != "base_model_name_or_path"}


def _torch_has(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8 and array.dtype.isnative

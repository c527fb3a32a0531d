"""Descriptions of objects, by name, that are the same in every process; rules: `fingerprint.py`."""

import functools
import inspect
import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from inference.svi.checkpoint.object_parts import (
    PLAIN,
    as_read,
    attributes_of,
    code_of,
    counts,
    is_installed,
    is_ours,
    members_of,
    names_in,
    names_read,
)
from model.common.files import tensors_digest
from model.networks.sharded_modules import class_of

Leaves = dict[str, str]
"""Description of each part, by name; the empty name is the whole."""

DEPTH = 60  # largest depth of objects in objects
DIGITS = 9
"""Significant digits of a number: later digits of a solved multiplier depend on the processor."""
MANY = 200  # number of items above which a container is one leaf
UNSTABLE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Settings of a network that depend on the place it was loaded from."""
ELSEWHERE = {"padding", "truncation"}  # parts of a tokenizer that each call sets anew


def join(name: str, key: str) -> str:
    """Name of a part of a part."""
    return f"{name}.{key}" if name and key else name or key


class Description:
    """Describes objects; a known object is not described again, and a cycle ends.

    Attributes:
        trains: True if the fit trains the parameters of the object: their values do not count then.
    """

    def __init__(self) -> None:
        self.trains = False
        self._done: dict[int, tuple[Any, Leaves]] = {}
        self._digests: dict[int, tuple[Tensor, int, str]] = {}
        self._depth = 0

    def forget(self) -> None:
        """Forget all but tokenizers, and tensors without a new value."""
        entries = self._done.values()
        self._done = {id(v): (v, d) for v, d in entries if isinstance(v, PreTrainedTokenizerBase)}

    def __call__(self, value: Any) -> Leaves:
        """Description of an object."""
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
        match value:
            case Tensor():
                return {"": self._tensor(value)}
            case np.ndarray(dtype=kind) if (
                kind.kind in "biuf" and kind.itemsize <= 8 and kind.isnative
            ):
                return {"": self._tensor(torch.as_tensor(value))}
            case np.ndarray():
                return self._sequence(value.tolist())
            case list() | tuple():
                return self._sequence(value)
            case dict():
                items = {self._key(key): item for key, item in value.items()}
                return self._container(items, "dict")
            case set() | frozenset():
                return {"": str(sorted(str(self(item)) for item in value))}
            case type():
                return self._parts(members_of(value), value.__name__)
            case ModuleType():
                return {"": value.__name__}
            case logging.Logger():
                return {"": value.name}
            case torch.device() | torch.Generator():
                return {"": type(value).__name__}
            case PreTrainedTokenizerBase():
                return {"": _tokenizer(value)}
            case transformers.PreTrainedModel():
                return self._network(value)
            case nn.Module():
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
        """One leaf if all items are plain, otherwise item by item."""
        values = values if isinstance(values, list | tuple) else [values]
        parts = [self(value) for value in values]
        if all(set(part) == {""} for part in parts):
            return {"": f"({', '.join(part[''] for part in parts)})"}
        items = {str(index): value for index, value in enumerate(values)}
        return self._container(items, f"{len(values)} items")

    def _tensor(self, tensor: Tensor) -> str:
        version = -1 if tensor.is_inference() else tensor._version
        if self._digests.get(id(tensor), (None, None))[1] != version:
            digest = f"#{tensors_digest([('', tensor)])}"
            self._digests[id(tensor)] = (tensor, version, digest)
        return self._digests[id(tensor)][2]

    def _network(self, network: "transformers.PreTrainedModel") -> Leaves:
        """A network of `transformers`: class, settings, adapters, all tensors."""
        config = network.config.to_dict().items()
        settings = {key: value for key, value in config if key not in UNSTABLE}
        text = json.dumps(settings, sort_keys=True, default=str)
        adapters = {}
        for name, adapter in (getattr(network, "peft_config", None) or {}).items():
            options = adapter.to_dict() if hasattr(adapter, "to_dict") else adapter
            adapters[name] = {k: v for k, v in options.items() if k != "base_model_name_or_path"}
        leaves = {"": class_of(network).__name__, "config": text} | self._parts(
            {"adapter": adapters}
        )
        return leaves | self._tensors(network.state_dict(keep_vars=True).items())

    def _module(self, module: nn.Module) -> Leaves:
        """A module: attributes, parts, parameters and saved buffers."""
        unsaved = module._non_persistent_buffers_set
        buffers = {name: buffer for name, buffer in module._buffers.items() if name not in unsaved}
        parts = {name: part for name, part in module._modules.items() if part is not None}
        leaves = self._object(module) | self._parts(parts)
        return leaves | self._tensors((module._parameters | buffers).items())

    def _tensors(self, tensors: Iterable[tuple[str, Any]]) -> Leaves:
        """Tensors of a module: values, or shapes and types of tensors that the fit trains."""
        frozen, trained = [], []
        for name, tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            if self.trains and tensor.requires_grad:
                trained.append(f"{name} {tuple(tensor.shape)} {tensor.dtype}")
            else:
                frozen.append(f"{name} {self._tensor(tensor)}")
        leaves = {"weights": "; ".join(frozen), "trained": "; ".join(trained)}
        return {name: text for name, text in leaves.items() if text}

    def _object(self, value: Any) -> Leaves:
        """An object: class and attributes; of an installed package plain attributes alone."""
        kind = type(value)
        attributes = attributes_of(value)
        if not attributes and is_installed(kind) and " at 0x" not in (text := repr(value)):
            return {"": text}
        parts = members_of(kind)
        for name, part in attributes.items():
            if counts(kind, name, part):
                # the underscore of a container says that the container may be a cache
                private = name.startswith("_") and isinstance(part, dict | list | set)
                parts[name if private else name.lstrip("_")] = part
        return self._parts(parts, kind.__name__)

    def _callable(self, value: Any) -> Leaves:
        if isinstance(value, functools.partial):
            parts = {"function": value.func, "arguments": value.args, "options": value.keywords}
            return self._parts(parts, "partial")
        if isinstance(value, MethodType):
            return self._parts({"method": value.__func__, "object": value.__self__})
        if isinstance(value, FunctionType):
            return self._function(value)
        if hasattr(value, "__wrapped__"):  # such as a cache around a function
            return self._parts({"function": value.__wrapped__}, type(value).__name__)
        if inspect.isbuiltin(value) or inspect.ismethoddescriptor(value):
            return {"": value.__qualname__}
        return self._object(value)

    def _function(self, function: FunctionType) -> Leaves:
        """A function: closure, and for the user's functions code, defaults and variables."""
        read = names_read(function)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        parts = {}
        for name, cell in cells:
            with suppress(ValueError):  # a variable without a value yet
                parts[name] = as_read(cell.cell_contents, read)
        if is_ours(function) or is_installed(function):
            return self._parts(parts, f"{function.__module__}.{function.__qualname__}")
        if function.__defaults__ or function.__kwdefaults__:
            parts["defaults"] = [function.__defaults__, function.__kwdefaults__]
        for name, part in vars(function).items():
            if name != "__wrapped__":
                parts[f"{function.__name__}.{name}"] = part
        variables = function.__globals__
        for name in sorted(names_in(function.__code__) & variables.keys() - parts.keys()):
            if not isinstance(part := as_read(variables[name], read), ModuleType):
                parts[name] = part
        return self._parts(parts, f"{function.__name__} {code_of(function)}")


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        parts = json.loads(backend.to_str()).items()
        content = {key: part for key, part in parts if key not in ELSEWHERE}
    whole = [content, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]
    return json.dumps(whole, sort_keys=True, default=str)

"""Descriptions of objects in texts that are the same in every process; see `inference.fingerprint` for what they go by."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import sys
import sysconfig
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.digests import tensors_digest

Leaves = dict[str, str]

OURS = {"model", "guides", "inference", "experiments"}
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
STATE = {"_known", "_cache", "training"}
"""Attributes of the project's own objects that change nothing: what they remember."""
SPEED = {"batch_size", "cache_size", "max_cached"}
"""Attributes that change what a thing costs, and not what it is."""
UNSTABLE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Settings of a network that depend on where it was loaded from."""
ELSEWHERE = {"padding", "truncation"}
"""Parts of a tokenizer that each call sets anew."""


def join(name: str, key: str) -> str:
    """The name of a part of a part."""
    return f"{name}.{key}" if name and key else name or key


class Description:
    """Describes objects. What was met before is not computed again, and what is inside itself is not followed."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Leaves]] = {}
        self._digests: dict[int, tuple[Tensor, str]] = {}

    def __call__(self, value: Any) -> Leaves:
        """Texts by the names of the parts of `value`; the empty name is that of the whole."""
        if value is None or isinstance(
            value, bool | int | float | complex | str | bytes | np.generic | torch.dtype | torch.Size
        ):
            return {"": repr(value.item() if isinstance(value, np.generic) else value)}
        if id(value) not in self._done:
            self._done[id(value)] = (value, {"": "itself"})
            self._done[id(value)] = (value, self._describe(value))
        return self._done[id(value)][1]

    def _describe(self, value: Any) -> Leaves:
        if isinstance(value, Tensor):
            return {"": self._tensor(value)}
        if isinstance(value, np.ndarray) and value.dtype != object:
            return (
                {"": self._tensor(torch.from_numpy(np.ascontiguousarray(value)))}
                if _torch_has(value)
                else _text(value.tolist())
            )
        if isinstance(value, PurePath | re.Pattern | torch.device):
            return {"": "" if isinstance(value, torch.device) else str(value)}
        if isinstance(value, list | tuple | np.ndarray):
            return self._sequence(list(value))
        if isinstance(value, dict):
            return self._parts({str(key): item for key, item in value.items()}, "dict")
        if isinstance(value, set | frozenset):
            return {"": str(sorted(map(repr, value)))}
        if isinstance(value, ModuleType | type):
            return {"": value.__name__}
        if isinstance(value, PreTrainedTokenizerBase):
            return _tokenizer(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        return self._callable(value) if callable(value) else self._object(value)

    def _parts(self, parts: dict[str, Any], kind: str = "") -> Leaves:
        leaves = {"": kind} if kind else {}
        for name in sorted(parts):
            leaves |= {join(name, key): leaf for key, leaf in self(parts[name]).items()}
        return leaves

    def _sequence(self, values: list[Any]) -> Leaves:
        parts = [self(value) for value in values]
        if all(set(part) == {""} for part in parts):
            return {"": f"({', '.join(part[''] for part in parts)})"}
        return self._parts({str(n): value for n, value in enumerate(values)}, f"{len(values)} items")

    def _tensor(self, tensor: Tensor) -> str:
        if id(tensor) not in self._digests:
            self._digests[id(tensor)] = (tensor, f"#{tensors_digest([('', tensor)])}")
        return self._digests[id(tensor)][1]

    def _module(self, module: nn.Module) -> Leaves:
        """A network of `transformers` by its settings and all its tensors, other modules part by part."""
        if isinstance(module, PreTrainedModel):
            settings = {key: value for key, value in module.config.to_dict().items() if key not in UNSTABLE}
            tensors = module.state_dict(keep_vars=True)
            leaves = {"": type(module).__name__, "config": json.dumps(settings, sort_keys=True, default=str)}
        else:
            buffers = {
                name: buffer for name, buffer in module._buffers.items() if name not in module._non_persistent_buffers_set
            }
            tensors = {name: tensor for name, tensor in (module._parameters | buffers).items() if tensor is not None}
            leaves = self._object(module) | self._parts(
                {name: part for name, part in module._modules.items() if part is not None}
            )
        frozen = [f"{name} {self._tensor(tensor)}" for name, tensor in tensors.items() if not tensor.requires_grad]
        trained = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors.items() if t.requires_grad]
        return leaves | {name: "; ".join(texts) for name, texts in {"weights": frozen, "trained": trained}.items() if texts}

    def _object(self, value: Any) -> Leaves:
        """Class and attributes; of an object of an installed package only what is plain."""
        kind = type(value)
        kept = {}
        for name, part in _attributes(value).items():
            plain = part is None or isinstance(part, bool | int | float | str | Tensor | np.ndarray | tuple | list | dict)
            cache = name in STATE if _is_ours(kind) else name.startswith("_") and isinstance(part, dict | list | set)
            if not (cache or name in SPEED or (_is_installed(kind) and not (plain and not name.startswith("_")))):
                kept[name.lstrip("_")] = part
        methods = {}
        if not _is_ours(kind) and not _is_installed(kind):
            methods = {f"{name}()": member for name, member in vars(kind).items() if isinstance(member, FunctionType)}
        return self._parts(kept | methods, kind.__name__)

    def _callable(self, value: Any) -> Leaves:
        value = inspect.unwrap(value)
        if isinstance(value, functools.partial):
            return self._parts({"function": value.func, "arguments": value.args, "options": value.keywords}, "partial")
        if isinstance(value, MethodType):
            return self._parts({"method": value.__func__, "object": value.__self__})
        if isinstance(value, FunctionType):
            return self._function(value)
        if inspect.isbuiltin(value) or inspect.ismethoddescriptor(value):
            return {"": value.__qualname__}
        return self._object(value)

    def _function(self, function: FunctionType) -> Leaves:
        names = function.__code__.co_freevars
        parts = {name: _content(cell) for name, cell in zip(names, function.__closure__ or (), strict=True)}
        if _is_ours(function) or _is_installed(function):
            return self._parts(parts, f"{function.__module__}.{function.__qualname__}")
        if function.__defaults__ or function.__kwdefaults__:
            parts["defaults"] = [function.__defaults__, function.__kwdefaults__]
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            part = function.__globals__[name]
            if not (name.startswith("_") and isinstance(part, dict | list | set)) and not isinstance(part, ModuleType | type):
                parts.setdefault(name, part)
        return self._parts(parts, f"{function.__name__} {code_of(function)}")


def code_of(function: Any) -> str:
    """A function's name and the digest of its compiled code; of a callable object the class."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function).__name__
    return f"{code.co_name} #{hashlib.blake2b(repr(_compiled(code)).encode(), digest_size=16).hexdigest()}"


def _compiled(code: CodeType) -> tuple[Any, ...]:
    return code.co_code, [_constant(constant) for constant in code.co_consts], code.co_names, code.co_varnames


def _constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _compiled(constant)
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


def _names(code: CodeType) -> set[str]:
    """All names that are looked up in the code of a function and of those inside it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _attributes(value: Any) -> dict[str, Any]:
    """Those of an object; of a module without what torch keeps in it."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name) and name != "__dict__"}
    found |= getattr(value, "__dict__", {})
    return {name: part for name, part in found.items() if name not in _OF_MODULES}


_OF_MODULES = {*vars(nn.Module()), "__weakref__"}


def _is_ours(thing: Any) -> bool:
    return thing.__module__.split(".")[0] in OURS


def _is_installed(thing: Any) -> bool:
    """Whether a class or function is of the standard library or of an installed package."""
    if isinstance(thing, FunctionType):
        return thing.__code__.co_filename.startswith(INSTALLED)
    if thing.__module__ == "builtins" or thing.__module__ in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    return thing.__module__ != "__main__" and file is not None and str(Path(file).resolve()).startswith(INSTALLED)


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> Leaves:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = {key: part for key, part in json.loads(backend.to_str()).items() if key not in ELSEWHERE}
    whole = [content, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]
    return _text(json.dumps(whole, sort_keys=True, default=str))


def _text(content: Any) -> Leaves:
    return {"": str(content)}


def _torch_has(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8 and array.dtype.isnative

"""A function of the user's as a reward: `FILE.py:NAME` or `MODULE:NAME`."""

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from model.likelihood import LikelihoodError


def user_function(argument: str) -> Callable[..., Any]:
    """Import a function, whose own errors are then raised as `LikelihoodError`.

    Args:
        argument: `FILE.py:NAME` or `MODULE:NAME`.

    Raises:
        ValueError: if the import fails, or if the module has no such function.
    """
    place, _, name = argument.rpartition(":")
    if not place:
        raise ValueError(f"expected FILE.py:NAME or MODULE:NAME after the colon, got {argument!r}")
    try:
        module = _run(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except OSError:
        raise
    except (Exception, SystemExit) as error:  # a module can raise anything
        raise ValueError(f"cannot import {place}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        listed = ", ".join(names) or "none"
        raise ValueError(f"expected a function {name!r} in {place}, which has {listed}")

    @contextmanager
    def named() -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # SystemExit would end the script as a success
            message = f"the function {argument} raised {type(error).__name__}: {error}"
            raise LikelihoodError(message) from error

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with named():
            result = function(*args, **kwargs)
        return awaited(result) if isinstance(result, Awaitable) else result

    async def awaited(result: Awaitable[Any]) -> Any:
        with named():
            return await result

    return call


def _run(path: Path) -> ModuleType:
    """Run a file as a module, with the files beside it importable."""
    spec = importlib.util.spec_from_file_location(f"reward_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None  # every name that ends with .py has a loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module

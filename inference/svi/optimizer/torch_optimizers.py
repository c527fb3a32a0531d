"""Torch optimisers: made fused where torch can, and checked before a fit."""

import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from model.common.checks import finite

ABOVE_ZERO = ("clip_norm", "clip_value")  # options that may not be 0


def fused_optimizer(
    constructor: Any, groups: list[dict[str, Any]], options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The torch optimiser of parameter groups, fused if constructor and options allow that."""
    fused = "fused" in keywords(constructor)
    fused &= not {"fused", "foreach", "differentiable"} & options.keys()
    try:
        if fused and not _fused_fails(constructor, groups):
            with suppress(RuntimeError):  # torch's error for parameters that it cannot fuse
                return constructor(groups, **options, fused=True)
        return constructor(groups, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name_of(constructor)} refuses the options {options}, or the parameters: {error}. "
            f"Its options are {', '.join(sorted(keywords(constructor)))}."
        ) from error


def _fused_fails(constructor: Any, groups: list[dict[str, Any]]) -> bool:
    """True where torch 2.13 accepts `fused` and the step is wrong.

    Fused SGD on a CPU skips the last numbers in half precision; of devices but the CPU and CUDA
    nothing is known. Fused Adagrad is for the CPU alone, which torch says in the first step.
    """
    if not isinstance(constructor, type):
        return False
    parameters = [parameter for group in groups for parameter in group["params"]]
    if issubclass(constructor, torch.optim.SGD):
        return any(not p.is_cuda and p.element_size() < 4 for p in parameters)
    return issubclass(constructor, torch.optim.Adagrad) and not all(p.is_cpu for p in parameters)


def keywords(constructor: Any) -> set[str]:
    """Names of the options of a constructor."""
    return set(inspect.signature(constructor).parameters) - {"self", "params", "args", "kwargs"}


def name_of(constructor: Any) -> str:
    """Name of a constructor, for errors."""
    return getattr(constructor, "__name__", repr(constructor))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse an option of an optimiser, or of Pyro's clipping, that would ascend the gradient."""
    for name in ("lr", "eta", "lrd", *ABOVE_ZERO):
        if (value := options.get(name)) is not None:
            number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
            finite(name, number, at_least=0, above=0 if name in ABOVE_ZERO else -math.inf)
    if options.get("maximize"):
        raise ValueError("maximize is True, expected False: an objective returns a loss to descend")


def trial_parameter() -> torch.nn.Parameter:
    """A parameter for `try_step`, in float64: overflow in a narrower type shows in the fit."""
    return torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))


def try_step(optimizer: torch.optim.Optimizer) -> None:
    """Check an optimiser of trial parameters by a step with a gradient of ones.

    Raises a `ValueError` if torch refuses, as `SparseAdam` does for dense gradients.
    """
    for group in optimizer.param_groups:
        check_options(group)
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except RuntimeError as error:
        fault = f"{type(optimizer).__name__} cannot step in a fit with these options: {error}"
        raise ValueError(f"{fault}. Choose an optimiser such as `torch.optim.Adam`") from error

"""Checks of an optimiser's options: the optimiser must step, and must descend."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.common.checks import finite

ABOVE_ZERO = ("clip_norm", "clip_value")


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

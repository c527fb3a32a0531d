"""What an optimiser may be told: options with which it goes down the gradient that SVI gives it, and not up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.common.checks import finite

AT_LEAST_ZERO = ("lr", "eta", "lrd")
ABOVE_ZERO = ("clip_norm", "clip_value")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options, of an optimiser or of Pyro's clipping, that turn the descent around.

    Raises:
        ValueError: with the name of the option.
    """
    for name in (*AT_LEAST_ZERO, *ABOVE_ZERO):
        if (value := options.get(name)) is not None:
            number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
            finite(name, number, at_least=0, above=0 if name in ABOVE_ZERO else -math.inf)
    if options.get("maximize"):
        raise ValueError(
            "maximize is True, expected False: what an objective returns is a loss, to be descended"
        )


def trial_parameter() -> torch.nn.Parameter:
    """A parameter for `try_step`, float64: a rate that only a narrower type cannot hold is a matter of the fit's own step."""
    return torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))


def try_step(optimizer: torch.optim.Optimizer) -> None:
    """Step an optimiser of trial parameters, with a gradient of ones, to see whether it can step at all.

    Raises:
        ValueError: if torch refuses, as it does to step on dense gradients with `SparseAdam`; or an option is out of range.
    """
    for group in optimizer.param_groups:
        check_options(group)
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except RuntimeError as error:
        raise ValueError(
            f"{type(optimizer).__name__} cannot step in a fit with these options: {error}. Choose an optimiser such as "
            "`torch.optim.Adam`"
        ) from error

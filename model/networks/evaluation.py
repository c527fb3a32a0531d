"""Evaluation mode: with dropout, what is sampled would not be what is scored, and a reward would change from call to call."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def evaluating(module: M) -> M:
    """The module, put back into evaluation mode if it or a part of it was taken out from outside.

    Every pass goes through this: `network.train()` is one call of a training loop away, and changes no weight.
    """
    if any(part.training for part in module.modules()):
        module.eval()
    return module

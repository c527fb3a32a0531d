"""One torch optimiser over all parameters, behind Pyro's optimiser interface.

`pyro.optim` makes an optimiser for each tensor and clips the gradient of each tensor on its own. Here one fused optimiser steps
them all, the gradient's norm is that of all of them together, and a gradient that is not finite never reaches a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

Schedule = Callable[[int], float]


class NonFiniteGradientError(FloatingPointError):
    """The gradient has a NaN or an infinity in it. The parameters are as they were before the step."""


def constant(step: int) -> float:
    """The learning rate stays as it is."""
    return 1.0


def cosine(num_steps: int, *, warmup: int = 0) -> Schedule:
    """A factor for the learning rate: up on a line for `warmup` steps, then half a cosine, down to 0 at `num_steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


class FusedOptimizer(PyroOptim):
    """A torch optimiser for all parameters at once. Goes where a `pyro.optim` optimiser goes.

    Args:
        constructor: a `torch.optim` class.
        options: its keyword arguments; `lr` is 1e-3 and `fused` is True unless they say otherwise.
        clip_norm: the gradient is scaled down to this norm over all parameters; None leaves it as it is.
        schedule: a factor for every learning rate, by step, from 0 on.

    Attributes:
        step_count: steps taken.
        grad_norm: norm of the last gradient, before clipping.
    """

    def __init__(
        self,
        constructor: type[torch.optim.Optimizer] = torch.optim.Adam,
        options: dict[str, Any] | None = None,
        *,
        clip_norm: float | None = None,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(constructor, {"lr": 1e-3, "fused": True} | (options or {}))
        self.clip_norm = clip_norm
        self.schedule = schedule
        self.step_count = 0
        self.grad_norm = math.nan
        self._optimizer: torch.optim.Optimizer | None = None
        self._parameters: dict[str, Tensor] = {}

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Step on the gradients of `params`, then drop them.

        Raises:
            NonFiniteGradientError: before any parameter is touched.
        """
        self._add(params)
        parameters = [parameter for parameter in self._parameters.values() if parameter.grad is not None]
        if not parameters:
            return
        assert self._optimizer is not None
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.grad_norm = norm.item()
        if not math.isfinite(self.grad_norm):
            self._drop_gradients()
            raise NonFiniteGradientError(
                f"the gradient's norm is {self.grad_norm} at step {self.step_count}; the parameters were left as they were. "
                "Look for evidence of -inf, a learning rate too high, or a half-precision guide."
            )
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        self._drop_gradients()
        self.step_count += 1

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return self.pt_optim_args["lr"] * self.schedule(self.step_count)

    def get_state(self) -> dict[str, Any]:
        """`step_count`, and for every parameter, by name, the tensors that the torch optimiser keeps for it."""
        kept = {} if self._optimizer is None else self._optimizer.state
        return {
            "step_count": self.step_count,
            "parameters": {name: dict(kept.get(parameter, {})) for name, parameter in self._parameters.items()},
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take up a state from `get_state`. Parameters not met so far get theirs when they are."""
        self.step_count = state_dict["step_count"]
        self._state_waiting_to_be_consumed.update(state_dict["parameters"])
        self._load_waiting()

    def _add(self, params: Iterable[Tensor]) -> None:
        store = pyro.get_param_store()
        known = {id(parameter) for parameter in self._parameters.values()}
        new = {store.param_name(parameter): parameter for parameter in params if id(parameter) not in known}
        if not new:
            return
        names = sorted(new)  # SVI hands over a set, whose order differs from run to run
        group = {"params": [new[name] for name in names]}
        if self._optimizer is None:
            self._optimizer = self.pt_optim_constructor([group], **self.pt_optim_args)
        else:
            self._optimizer.add_param_group(group)
        self._parameters |= {name: new[name] for name in names}
        self._load_waiting()

    def _load_waiting(self) -> None:
        """Hand the torch optimiser what `set_state` brought for the parameters met so far."""
        waiting = self._state_waiting_to_be_consumed
        if self._optimizer is None or not waiting.keys() & self._parameters.keys():
            return
        state = self._optimizer.state_dict()
        for index, name in enumerate(self._parameters):
            if name in waiting:
                state["state"][index] = waiting.pop(name)
        self._optimizer.load_state_dict(state)

    def _drop_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

"""One torch optimiser over all parameters; `pyro.optim` makes and clips one for each tensor."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.svi.optimizer.checked import CheckedOptimizer, ScheduleError
from inference.svi.optimizer.torch_optimizers import (
    fused_optimizer,
    keywords,
    name_of,
    trial_parameter,
    try_step,
)
from model.common.checks import finite, function, positive, whole_number
from model.common.sharded_tensors import is_sharded

Schedule = Callable[[int], float]
"""Factor of the learning rate by step, from step 0."""


def constant(step: int) -> float:
    """Factor 1 of the learning rate."""
    return 1.0


def cosine(num_steps: int, *, warmup: int = 0) -> Schedule:
    """Factor of the learning rate: linear up over `warmup` steps, half a cosine to 0 at the end.

    Raises:
        ValueError: if `num_steps` is less than 1, or less than `warmup`.
    """
    num_steps = whole_number("num_steps", num_steps)
    warmup = whole_number("warmup", warmup, at_least=0, at_most=num_steps, why="part of the steps")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


class FusedOptimizer(CheckedOptimizer):
    """A torch optimiser, fused where torch can, for all parameters at once, clipped by one norm.

        options = {"lr": 1e-4, "weight_decay": 0.1}
        optimizer = FusedOptimizer(torch.optim.AdamW, options, schedule=cosine(1000))
        fit(model, guide, prompts, num_steps=1000, optimizer=optimizer)

    Args:
        constructor: a `torch.optim` class, or a function of parameter groups that returns a torch
            optimiser.
        options: keyword arguments of the constructor. Defaults: `lr` 1e-3, `fused` True where the
            constructor takes them.
        clip_norm: upper limit of the gradient's norm over all parameters; None for no limit.
        schedule: factor of every learning rate by step, from step 0, at least 0.

    Raises:
        TypeError: if the constructor is not callable, or its optimiser needs a closure, as LBFGS.
        ValueError: if the constructor refuses the options, if its optimiser cannot step or would
            ascend the gradient, or if a number is out of range.
    """

    def __init__(
        self,
        constructor: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        options: dict[str, Any] | None = None,
        *,
        clip_norm: float | None = None,
        schedule: Schedule = constant,
    ) -> None:
        _check_constructor(constructor)
        super().__init__(constructor, _with_rate(constructor, {} if options is None else options))
        self.clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        why = "of the step, such as `cosine(num_steps)`"
        self.schedule = function("schedule", schedule, why=why)
        finite("the schedule's factor at step 0", schedule(0), at_least=0)
        trial = fused_optimizer(constructor, [{"params": [trial_parameter()]}], self.pt_optim_args)
        if schedule is not constant and "lr" not in trial.param_groups[0]:
            fault = f"{name_of(constructor)} has no learning rate `lr` that a schedule could change"
            raise ValueError(f"{fault}: leave the schedule constant")
        try_step(trial)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; NaN if the optimiser has none."""
        if self.schedule is constant:
            return super().learning_rate
        return self.pt_optim_args.get("lr", math.nan) * self.schedule(self.step_count)

    def check_rate(self) -> None:
        """Raise a `ScheduleError` if the factor of the next step is negative or not finite."""
        factor = self.schedule(self.step_count)
        if not (math.isfinite(factor) and factor >= 0):
            raise ScheduleError(
                f"the schedule's factor for the learning rate is {factor} at step {self.step_count}"
                ", expected a finite number of at least 0; the parameters were left as they were"
            )

    def _advance(self, trained: list[Tensor], norm: Tensor) -> bool:
        assert self._optimizer is not None
        if self.clip_norm is not None:
            for is_part in (False, True):
                some = [parameter for parameter in trained if is_sharded(parameter) == is_part]
                torch.nn.utils.clip_grads_with_norm_(some, self.clip_norm, norm)
        if self.schedule is not constant:
            for group in self._optimizer.param_groups:
                group["lr"] = self.learning_rate
        return super()._advance(trained, norm)


def adam_on_cosine(
    num_steps: int, learning_rate: float = 1e-3, clip_norm: float | None = None
) -> FusedOptimizer:
    """Adam with a warm-up over a twentieth of the steps to `learning_rate`, then a cosine to 0.

    `clip_norm` is the upper limit of the gradient's norm; None for no limit.
    """
    rate = positive("learning_rate", learning_rate)
    schedule = cosine(num_steps, warmup=num_steps // 20)
    return FusedOptimizer(options={"lr": rate}, clip_norm=clip_norm, schedule=schedule)


def _check_constructor(constructor: Any) -> None:
    if not callable(constructor):
        raise TypeError(
            f"constructor is a {type(constructor).__name__}, expected a class such as "
            "`torch.optim.Adam`, which receives the guide's parameters in the first step"
        )
    step = getattr(constructor, "step", None)
    closure = inspect.signature(step).parameters.get("closure") if step is not None else None
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"{name_of(constructor)} needs a closure that computes the loss again in each step, "
            "which a step of SVI does not have: choose an optimiser such as `torch.optim.Adam`"
        )


def _with_rate(constructor: Any, options: Any) -> dict[str, Any]:
    """The options, with a checked learning rate if the constructor takes one."""
    if not isinstance(options, dict):
        raise TypeError(
            f"options is a {type(options).__name__}, expected a dict of keyword arguments of "
            f"{name_of(constructor)}; for options that differ from parameter to parameter, "
            "`inference.fit` takes optimisers of `pyro.optim`"
        )
    if "lr" not in options and "lr" not in keywords(constructor):
        return dict(options)
    rate = options.get("lr", 1e-3)
    number = rate.item() if isinstance(rate, Tensor) and rate.numel() == 1 else rate
    return options | {"lr": positive("lr", number)}

"""Optimisers whose step either leaves every number finite or is undone, with checked options."""

import math
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from inference.svi.optimizer.backup import Backup, OptimizerEntry, all_finite
from inference.svi.optimizer.torch_optimizers import fused_optimizer
from model.common.sharded_tensors import is_sharded, sharded_like, total_norm


class NonFiniteGradientError(FloatingPointError):
    """The gradient has a NaN or an infinity. The parameters are as before the step."""


class NonFiniteParametersError(FloatingPointError):
    """The step left a NaN or an infinity. Parameters and moments are restored."""


class NonFiniteStartError(ValueError):
    """A parameter is NaN or infinite before the first step."""


class ScheduleError(ArithmeticError):
    """The schedule gives a negative or non-finite factor. The parameters are as before the step."""


class CheckedOptimizer(PyroOptim, ABC):
    """A `pyro.optim` optimiser that checks the gradient before and all numbers after a step.

    One torch optimiser steps all parameters. The trained parameters and their moments are held
    twice.

    Attributes:
        step_count: number of steps taken.
        grad_norm: norm of the last gradient over all parameters, before clipping.
        slope: slope of the loss along the step before, for an optimiser that needs it; 0 otherwise.
        progress: share of the fit that is done, which `fit` sets before each step.
        step_size: size of the last step, nats; NaN if steps have no limit in nats.
    """

    progress = slope = 0.0
    step_size = math.nan

    def __init__(self, constructor: Any, options: Any, clip: Any = None) -> None:
        super().__init__(constructor, options, clip)
        self.step_count = 0
        self.grad_norm = math.nan
        self._optimizer: torch.optim.Optimizer | None = None
        self._entries: dict[str, OptimizerEntry] = {}
        self._backup = Backup()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; NaN if the optimiser has none."""
        if self._optimizer is not None:
            return float(self._optimizer.param_groups[0].get("lr", math.nan))
        return self.pt_optim_args.get("lr", math.nan)

    @property
    def parameters_before_step(self) -> dict[str, Tensor]:
        """Copy of the parameters before the last step, by name; the next step writes over it."""
        return self._backup.parameters

    def _adopt(self, new: dict[str, Tensor]) -> None:
        """Add new parameters, by name, in one group where a resume brings equal options.

        Torch steps no sharded and whole tensors together.
        """
        waiting = self._state_waiting_to_be_consumed

        def options(name: str) -> str:
            given = str(waiting[name][1]["group"]) if name in waiting else "{}"
            return f"{is_sharded(new[name])} {given}"

        for _, names in groupby(sorted(new, key=options), key=options):
            part = {name: new[name] for name in names}
            group = {"params": list(part.values())}
            if self._optimizer is None:
                self._optimizer = fused_optimizer(
                    self.pt_optim_constructor, [group], self.pt_optim_args
                )
            else:
                self._optimizer.add_param_group(group)
            for name, parameter in part.items():
                self._entries[name] = OptimizerEntry.of(parameter, self._optimizer)

    def _advance(self, trained: list[Tensor], norm: Tensor) -> bool:
        """Step on the gradients of `trained`, whose common norm is `norm`.

        True if the step has found all its numbers finite, False if that is unknown.
        """
        assert self._optimizer is not None
        self._optimizer.step()
        return False

    def _slope(self, norm: Tensor) -> Tensor:
        """Slope of the loss along the last step, at the gradients now, of this norm."""
        return torch.zeros_like(norm)

    def check_rate(self) -> None:
        """Raise before a step with a bad learning rate; the default does nothing."""

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Step on the gradients of `params`, then drop the gradients; raises the errors above."""
        self._meet(params)
        parameters = [entry.parameter for entry in self._entries.values()]
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        if not trained:
            return
        try:
            norm = total_norm([p.grad for p in trained if p.grad is not None])
            numbers = torch.stack([norm, self._slope(norm).to(norm.device)])
            self.grad_norm, self.slope = numbers.tolist()  # one wait for the device
            if not math.isfinite(self.grad_norm):
                raise NonFiniteGradientError(
                    f"the gradient's norm is {self.grad_norm} at step {self.step_count}; the "
                    "parameters were left as they were. Look for a log likelihood of -inf, a "
                    "learning rate too high, or a half-precision guide."
                )
            self.check_rate()
            self._backup.save(self._entries)
            self._advance_or_undo(trained, norm)
        finally:
            for parameter in trained:
                parameter.grad = None
        self.step_count += 1

    def _advance_or_undo(self, trained: list[Tensor], norm: Tensor) -> None:
        try:
            if not self._advance(trained, norm):
                self._check_finite()
        except BaseException as error:
            self._backup.restore()
            # torch's error for a factor that the type of a parameter cannot hold
            if isinstance(error, RuntimeError) and "without overflow" in str(error):
                undone = f"step {self.step_count} was undone: {error}"
                raise NonFiniteParametersError(undone) from error
            raise

    def undo(self) -> bool:
        """Undo the last step; only one can be undone. Returns True if there was one."""
        undone = self._backup.restore()
        self.step_count -= undone
        return undone

    def get_state(self) -> dict[str, Any]:
        """State for later steps: tensors among the moments in `parameters`, else types of JSON."""
        return {
            "step_count": self.step_count,
            "parameters": {name: _tensors(entry.moments) for name, entry in self._entries.items()},
            "plain": {name: _plain(entry) for name, entry in self._entries.items()},
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take a state from `get_state`. New parameters receive their state when they appear."""
        self.step_count = state_dict["step_count"]
        for name, plain in state_dict["plain"].items():
            tensors = state_dict["parameters"].get(name, {})
            self._state_waiting_to_be_consumed[name] = (tensors, plain)
        self._restore_waiting()

    def _meet(self, params: Iterable[Tensor]) -> None:
        store = pyro.get_param_store()
        known = {id(entry.parameter) for entry in self._entries.values()}
        new = {store.param_name(p): p for p in params if id(p) not in known}
        if new:
            check_start(new)
            # SVI passes a set, whose order differs from run to run
            self._adopt(dict(sorted(new.items())))
            self._restore_waiting()

    def _restore_waiting(self) -> None:
        """Give torch the state from `set_state` of all known parameters."""
        for name in self._state_waiting_to_be_consumed.keys() & self._entries.keys():
            _restore(self._entries[name], *self._state_waiting_to_be_consumed.pop(name))

    def _changed(self) -> dict[str, dict[str, list[Tensor]]]:
        """Tensors that a step changes, by their kind and by the name of their parameter."""
        store, entries = pyro.get_param_store(), self._entries.items()
        constrained = {n: [store[n]] for n, e in entries if store[n] is not e.parameter}
        return {
            "parameter": {name: [entry.parameter] for name, entry in entries},
            "constrained parameter": constrained,
            "moment of": {n: list(_tensors(entry.moments).values()) for n, entry in entries},
        }

    def _all_numbers(self) -> Iterator[Tensor]:
        """Parameters, unconstrained and constrained, and moments."""
        for tensors in self._changed().values():
            yield from chain.from_iterable(tensors.values())

    def _check_finite(self) -> None:
        """Raise a `NonFiniteParametersError` that names the first kind and parameter with a NaN."""
        with torch.no_grad():
            if all_finite(self._all_numbers()):  # all together first: each check waits
                return
            for kind, tensors in self._changed().items():
                if names := [name for name, each in tensors.items() if not all_finite(each)]:
                    raise NonFiniteParametersError(
                        f"step {self.step_count} left a NaN or an infinity in {kind} {names[0]!r} "
                        f"({len(names)} of {len(self._entries)} have one); the step was undone. "
                        "Look for a learning rate too high, or half-precision weights, in which "
                        "squares overflow and Adam's eps is 0: train them in float32."
                    )


def check_start(parameters: Mapping[str, Tensor]) -> None:
    """Raise a `NonFiniteStartError` that names the first parameter with a NaN or an infinity."""
    if all_finite(parameters.values()):
        return
    names = [name for name, parameter in parameters.items() if not all_finite([parameter])]
    raise NonFiniteStartError(
        f"parameter {names[0]!r} has a NaN or an infinity before the first step ({len(names)} of "
        f"{len(parameters)} do), expected finite numbers: look at the file that it was loaded "
        "from, or at its initial value"
    )


def _tensors(moments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in moments.items() if isinstance(value, Tensor)}


def _plain(entry: OptimizerEntry) -> dict[str, Any]:
    """State of a parameter besides tensors: numbers, changed options, tensors elsewhere by name."""
    tensors, device = _tensors(entry.moments), entry.parameter.device
    return {
        "moments": {key: value for key, value in entry.moments.items() if key not in tensors},
        "group": {
            key: value
            for key, value in entry.group.items()
            if isinstance(value, bool | int | float | str) and value != entry.options.get(key)
        },
        "elsewhere": [key for key, value in tensors.items() if value.device != device],
    }


def _restore(entry: OptimizerEntry, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Load like torch's `load_state_dict`, which would round moments to a parameter's type."""
    device = entry.parameter.device
    state = {
        key: value if key in plain["elsewhere"] else sharded_like(value.to(device), entry.parameter)
        for key, value in tensors.items()
    }
    state |= plain["moments"]
    if state:
        entry.optimizer.state[entry.parameter] = state
    entry.group.update(plain["group"])

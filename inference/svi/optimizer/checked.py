"""Optimisers whose step either leaves every number finite or has not happened."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from inference.svi.optimizer.backup import Backup, OptimizerEntry, all_finite


class NonFiniteGradientError(FloatingPointError):
    """The gradient has a NaN or an infinity in it. The parameters are as they were before the step."""


class NonFiniteParametersError(FloatingPointError):
    """The step left a NaN or an infinity. Parameters and moments were put back as they were before it."""


class NonFiniteStartError(ValueError):
    """A parameter is NaN or infinite before it was trained at all."""


class ScheduleError(ArithmeticError):
    """The schedule gives a factor that is negative or not finite. The parameters are as they were before the step."""


class CheckedOptimizer(PyroOptim, ABC):
    """A `pyro.optim` optimiser that checks gradients before its step, and parameters and moments after it.

    For that it holds the trained parameters, and what torch keeps for them, twice: with Adam, three times their memory more.

    Attributes:
        step_count: steps taken.
        grad_norm: norm of the last gradient over all parameters, before clipping.
    """

    def __init__(self, constructor: Any, options: Any, clip: Any = None) -> None:
        super().__init__(constructor, options, clip)
        self.step_count = 0
        self.grad_norm = math.nan
        self._entries: dict[str, OptimizerEntry] = {}
        self._backup = Backup()

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Learning rate of the next step."""

    @abstractmethod
    def _adopt(self, new: dict[str, Tensor]) -> None:
        """Put parameters that were not met before, by name, into `_entries`."""

    @abstractmethod
    def _advance(self, trained: list[Tensor], norm: Tensor) -> None:
        """Step on the gradients of `trained`, whose norm over all of them is `norm`."""

    def check_rate(self) -> None:
        """Refuse a step before it is made; nothing by default."""

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Step on the gradients of `params`, then drop them.

        Raises:
            NonFiniteGradientError: before any parameter is touched.
            NonFiniteParametersError: if the step left a NaN or an infinity; it was undone.
            NonFiniteStartError: if a parameter that was not met before has one.
        """
        self._meet(params)
        trained = [
            entry.parameter for entry in self._entries.values() if entry.parameter.grad is not None
        ]
        if not trained:
            return
        try:
            norm = self._checked_norm(trained)
            self.check_rate()
            self._backup.keep(self._entries)
            self._advance_or_undo(trained, norm)
        finally:
            for parameter in trained:
                parameter.grad = None
        self.step_count += 1

    def _advance_or_undo(self, trained: list[Tensor], norm: Tensor) -> None:
        try:
            self._advance(trained, norm)
            self._check_finite()
        except BaseException as error:
            self._backup.put_back()
            if isinstance(error, RuntimeError) and "without overflow" in str(
                error
            ):  # torch's, of a factor
                raise NonFiniteParametersError(
                    f"step {self.step_count} was undone: {error}"
                ) from error
            raise

    def undo(self) -> bool:
        """Undo the last step; one can be undone. Returns whether there was one."""
        if not self._backup.put_back():
            return False
        self.step_count -= 1
        return True

    def get_state(self) -> dict[str, Any]:
        """The state that a later step depends on.

        Returns:
            `step_count`; `parameters`, for every parameter, by name, the tensors that torch keeps for it; `plain`, what else it
            keeps for the parameter, in types that JSON has.
        """
        return {
            "step_count": self.step_count,
            "parameters": {name: _tensors(entry.moments) for name, entry in self._entries.items()},
            "plain": {name: _plain(entry) for name, entry in self._entries.items()},
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take up a state from `get_state`. Parameters not met so far get theirs when they are."""
        self.step_count = state_dict["step_count"]
        tensors = state_dict["parameters"]
        waiting = {
            name: (tensors.get(name, {}), plain) for name, plain in state_dict["plain"].items()
        }
        self._state_waiting_to_be_consumed.update(waiting)
        self._restore_waiting()

    def _meet(self, params: Iterable[Tensor]) -> None:
        store = pyro.get_param_store()
        known = {id(entry.parameter) for entry in self._entries.values()}
        new = {
            store.param_name(parameter): parameter
            for parameter in params
            if id(parameter) not in known
        }
        if not new:
            return
        check_start(new)
        self._adopt(
            {name: new[name] for name in sorted(new)}
        )  # SVI hands over a set, whose order differs from run to run
        self._restore_waiting()

    def _restore_waiting(self) -> None:
        """Hand torch what `set_state` brought for the parameters met so far."""
        for name in self._state_waiting_to_be_consumed.keys() & self._entries.keys():
            _restore(self._entries[name], *self._state_waiting_to_be_consumed.pop(name))

    def _checked_norm(self, trained: list[Tensor]) -> Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        self.grad_norm = norm.item()
        if not math.isfinite(self.grad_norm):
            raise NonFiniteGradientError(
                f"the gradient's norm is {self.grad_norm} at step {self.step_count}; the parameters were left as they were. "
                "Look for evidence of -inf, a learning rate too high, or a half-precision guide."
            )
        return norm

    def _check_finite(self) -> None:
        """Parameters as torch has them and as Pyro's constraints make them, and the moments."""
        store = pyro.get_param_store()
        kinds: dict[str, Callable[[str], list[Tensor]]] = {
            "parameter": lambda name: [self._entries[name].parameter],
            "constrained parameter": lambda name: (
                [store[name]] if store[name] is not self._entries[name].parameter else []
            ),
            "moment of": lambda name: list(_tensors(self._entries[name].moments).values()),
        }
        with torch.no_grad():
            for kind, tensors in kinds.items():
                if all_finite(tensor for name in self._entries for tensor in tensors(name)):
                    continue
                names = [name for name in self._entries if not all_finite(tensors(name))]
                raise NonFiniteParametersError(
                    f"step {self.step_count} left a NaN or an infinity in {kind} {names[0]!r} ({len(names)} of "
                    f"{len(self._entries)} have one); everything was put back as it was before. Look for a learning rate too "
                    "high, or half-precision weights, in which squares overflow and Adam's eps is 0: train them in float32."
                )


def check_start(parameters: Mapping[str, Tensor]) -> None:
    """Raise a `NonFiniteStartError` that names the first parameter with a NaN or an infinity."""
    if all_finite(parameters.values()):
        return
    names = [name for name, parameter in parameters.items() if not all_finite([parameter])]
    raise NonFiniteStartError(
        f"parameter {names[0]!r} has a NaN or an infinity before the first step ({len(names)} of {len(parameters)} do), "
        "expected finite numbers: look at the file that it was loaded from, or at its initial value"
    )


def _tensors(moments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in moments.items() if isinstance(value, Tensor)}


def _plain(entry: OptimizerEntry) -> dict[str, Any]:
    tensors, group = _tensors(entry.moments), entry.group
    return {
        "moments": {key: value for key, value in entry.moments.items() if key not in tensors},
        "group": {
            key: value for key, value in group.items() if _changed(value, entry.options.get(key))
        },
        "elsewhere": [
            key for key, value in tensors.items() if value.device != entry.parameter.device
        ],
    }


def _changed(option: Any, given: Any) -> bool:
    """Whether an optimiser changed one of its options; those that it did not are up to the next who makes it."""
    return isinstance(option, bool | int | float | str) and option != given


def _restore(entry: OptimizerEntry, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Do what torch's `load_state_dict` does, which would round a wide moment to the type of a narrow parameter."""
    device = entry.parameter.device
    moved = {
        key: value if key in plain["elsewhere"] else value.to(device)
        for key, value in tensors.items()
    }
    if moved or plain["moments"]:
        entry.optimizer.state[entry.parameter] = moved | plain["moments"]
    entry.group.update(plain["group"])

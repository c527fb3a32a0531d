"""A copy of parameters and of their moments in torch optimisers, to undo a step."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from model.common.sharded_tensors import copy_all, total_norm


class OptimizerEntry(NamedTuple):
    """An unconstrained parameter, the torch optimiser that steps it, and its first options."""

    parameter: Tensor
    optimizer: torch.optim.Optimizer
    options: dict[str, Any]

    @classmethod
    def of(cls, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Self:
        """Entry of a parameter that the optimiser has just received."""
        entry = cls(parameter, optimizer, {})
        return entry._replace(options=_options(entry.group))

    @property
    def moments(self) -> dict[str, Any]:
        """State of the optimiser for the parameter; empty before the first step."""
        return self.optimizer.state.get(self.parameter, {})

    @property
    def group(self) -> dict[str, Any]:
        """Current options of the optimiser for the parameter."""
        for group in self.optimizer.param_groups:
            if any(parameter is self.parameter for parameter in group["params"]):
                return group
        raise KeyError("the optimiser does not step this parameter")


class Backup:
    """A copy of parameters and moments; takes their memory once more, from the first `save` on.

    Attributes:
        parameters: copy of the parameters, by name.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Tensor] = {}
        self._moments: dict[str, dict[str, Any]] = {}
        self._options: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._entries: dict[str, OptimizerEntry] = {}

    @torch.no_grad()
    def save(self, entries: Mapping[str, OptimizerEntry]) -> None:
        """Copy the current parameters and moments over the copies of the last call."""
        self._entries = dict(entries)
        pairs: list[tuple[Tensor, Tensor]] = []

        def copied(value: Any, buffer: Any) -> Any:
            """A copy, in the buffer of an equal kind if there is one: a GPU writes all at once."""
            is_tensor = isinstance(value, Tensor) and isinstance(buffer, Tensor)
            if not is_tensor or _kind(buffer) != _kind(value):
                return _copy(value)
            pairs.append((buffer, value))
            return buffer

        for name, entry in entries.items():
            self.parameters[name] = copied(entry.parameter.detach(), self.parameters.get(name))
            old, moments = self._moments.get(name, {}), entry.moments.items()
            self._moments[name] = {key: copied(value, old.get(key)) for key, value in moments}
        copy_all([buffer for buffer, _ in pairs], [value for _, value in pairs])
        optimizers = {id(entry.optimizer): entry.optimizer for entry in entries.values()}
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        self._options = [(group, _options(group)) for group in groups]

    @torch.no_grad()
    def shorten(self, share: float) -> None:
        """Shorten the step since `save` to a share of its length; the moments stay as they are."""
        for name, (parameter, _, _) in self._entries.items():
            old = self.parameters[name]
            parameter.copy_(old + share * (parameter - old))

    @torch.no_grad()
    def restore(self) -> bool:
        """Undo all changes since `save`, once. Returns True if there was a copy to restore."""
        entries, self._entries = self._entries, {}
        copy_all(
            [each.parameter for each in entries.values()], [self.parameters[n] for n in entries]
        )
        for name, (parameter, optimizer, _) in entries.items():
            optimizer.state.pop(parameter, None)
            if moments := self._moments[name]:
                optimizer.state[parameter] = {key: _copy(value) for key, value in moments.items()}
        for group, options in self._options:
            group.update(options)
        return bool(entries)


def norm_of(tensors: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """Norm of all numbers, which is finite only if they are; 0 without numbers."""
    numbers = [t.detach() for t in tensors if t.numel() and t.is_floating_point()]
    return total_norm(numbers, order) if numbers else torch.zeros(())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """True if no number is NaN or infinite. One pass, and one number to wait for, if that is so."""
    tensors = list(tensors)
    # the squares of large numbers may overflow; their sum is fast on a CPU, the largest is not
    return any(math.isfinite(norm_of(tensors, order).item()) for order in (2.0, math.inf))


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) for key, value in group.items() if key != "params"}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device

"""A copy of parameters and of what torch optimisers keep for them, to undo a step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class OptimizerEntry(NamedTuple):
    """A parameter, unconstrained, the torch optimiser that steps it, and the options that it was given."""

    parameter: Tensor
    optimizer: torch.optim.Optimizer
    options: dict[str, Any]

    @classmethod
    def of(cls, parameter: Tensor, optimizer: torch.optim.Optimizer) -> OptimizerEntry:
        """A parameter that the optimiser has just been given."""
        entry = cls(parameter, optimizer, {})
        return entry._replace(options=_options(entry.group))

    @property
    def moments(self) -> dict[str, Any]:
        """State that the optimiser keeps for the parameter; empty before the parameter's first step."""
        return self.optimizer.state.get(self.parameter, {})

    @property
    def group(self) -> dict[str, Any]:
        """The options that the optimiser has for the parameter now; it may change them as it goes."""
        for group in self.optimizer.param_groups:
            if any(parameter is self.parameter for parameter in group["params"]):
                return group
        raise KeyError("the optimiser does not step this parameter")


class Backup:
    """A copy of parameters and moments. Takes their memory once more from the first `keep` on, and no more after it."""

    def __init__(self) -> None:
        self._parameters: dict[str, Tensor] = {}
        self._moments: dict[str, dict[str, Any]] = {}
        self._options: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._entries: dict[str, OptimizerEntry] = {}

    @torch.no_grad()
    def keep(self, entries: Mapping[str, OptimizerEntry]) -> None:
        """Copy the parameters and moments as they are now, over those of the last time."""
        self._entries = dict(entries)
        for name, entry in entries.items():
            self._parameters[name] = _copied(entry.parameter.detach(), self._parameters.get(name))
            buffers = self._moments.get(name, {})
            self._moments[name] = {
                key: _copied(value, buffers.get(key)) for key, value in entry.moments.items()
            }
        optimizers = {id(entry.optimizer): entry.optimizer for entry in entries.values()}
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        self._options = [(group, _options(group)) for group in groups]

    @torch.no_grad()
    def put_back(self) -> bool:
        """Undo everything since `keep`, once. Returns whether there was something to put back."""
        entries, self._entries = self._entries, {}
        for name, (parameter, optimizer, _) in entries.items():
            parameter.copy_(self._parameters[name])
            optimizer.state.pop(parameter, None)
            if self._moments[name]:
                optimizer.state[parameter] = {
                    key: _copied(value, None) for key, value in self._moments[name].items()
                }
        for group, options in self._options:
            group.update(options)
        return bool(entries)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number is NaN or infinite. One pass over the tensors, and one number that leaves their device."""
    floating = [
        tensor.detach() for tensor in tensors if tensor.numel() and tensor.is_floating_point()
    ]
    return not floating or math.isfinite(torch.nn.utils.get_total_norm(floating, math.inf).item())


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value, None) for key, value in group.items() if key != "params"}


def _copied(value: Any, buffer: Any) -> Any:
    """A copy of a tensor or of something else, in the memory of `buffer` if that suits."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    same = isinstance(buffer, Tensor) and (buffer.shape, buffer.dtype, buffer.device) == (
        value.shape,
        value.dtype,
        value.device,
    )
    return buffer.copy_(value) if same else value.detach().clone()

"""An earlier state of the guide: a copy of the parameters in Pyro's store, to use for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import pyro
import torch
from torch import Tensor


class Snapshot:
    """Trained parameters at some step, by their names in Pyro's store, in memory once more."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = parameters

    @classmethod
    def take(cls) -> Self:
        """Copy the parameters that are in Pyro's store now."""
        parameters = pyro.get_param_store().named_parameters()
        return cls({name: parameter.detach().clone() for name, parameter in parameters})

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the store's parameters the values of the snapshot inside the context."""
        store = dict(pyro.get_param_store().named_parameters())
        current = {name: store[name].detach().clone() for name in self.parameters}
        _write(store, self.parameters)
        try:
            yield
        finally:
            _write(store, current)


@torch.no_grad()
def _write(parameters: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)

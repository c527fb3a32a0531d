"""A guide as it was: a copy of the parameters in Pyro's store, which can be put in their place for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import Tensor


class Snapshot:
    """The trained parameters at some step. Takes their memory once more; frozen ones, such as a prior's, are not copied.

    Args:
        parameters: by the name that Pyro's store has for them.
    """

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = parameters

    @classmethod
    def take(cls) -> Snapshot:
        """Copy the parameters that are in Pyro's store now."""
        return cls(
            {
                name: parameter.detach().clone()
                for name, parameter in pyro.get_param_store().named_parameters()
            }
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The store's parameters have the snapshot's values inside the context, and their own again after it."""
        current = dict(pyro.get_param_store().named_parameters())
        kept = {name: current[name].detach().clone() for name in self.parameters}
        self._write(current, self.parameters)
        try:
            yield
        finally:
            self._write(current, kept)

    @staticmethod
    @torch.no_grad()
    def _write(current: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            current[name].copy_(value)

"""The base of objectives with a surrogate: one scalar is the loss, another has the gradient."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from inference.response_site import PAIRED
from model import Prompts


class SurrogateLoss(ELBO):
    """An ELBO whose loss and gradient come from two scalars, the loss and a surrogate."""

    ascends_elbo: bool = False
    """True if the ELBO of the objective's target decides which of two guides is better."""

    weight_power: float = 0.0
    """Power a of the weights w^a by which the gradient weighs the draws; 0 for equal weights."""

    reads_loss = True
    """False in a `fit`: loss and metrics are tensors, which `fit` reads by one wait with others."""

    @abstractmethod
    def _losses(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple:
        """Loss, summed over prompts, without gradient; surrogate, whose gradient is descended."""

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Add the gradient of the surrogate to `.grad`; return the loss."""
        loss, surrogate, *_ = self._losses(model, guide, args, kwargs)
        if surrogate.requires_grad:
            surrogate.backward(retain_graph=self.retain_graph)
        return loss.item() if self.reads_loss else loss

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Loss with the gradient of the surrogate."""
        loss, surrogate, *_ = self._losses(model, guide, args, kwargs)
        return loss + surrogate - surrogate.detach()


def read(numbers: dict[str, Any]) -> dict[str, float]:
    """The numbers of all tensors, by one wait for the device."""
    tensors = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}
    values = torch.stack(list(tensors.values())).tolist() if tensors else []
    return {**numbers, **dict(zip(tensors, values, strict=True))}


@contextmanager
def unread(elbo: ELBO) -> Iterator[None]:
    """Context in which an ELBO of this project returns its loss and metrics as tensors."""
    vars(elbo)["reads_loss"] = False
    try:
        yield
    finally:
        del vars(elbo)["reads_loss"]


def only_argument(name: str, args: tuple, kwargs: dict) -> Prompts:
    """Return the one argument of model and guide, positional or keyword, or raise `TypeError`."""
    values = [*args, *kwargs.values()]
    if len(values) != 1:
        raise TypeError(
            f"{name} got {len(args)} arguments and the keywords {sorted(kwargs)} for model and "
            f"guide, expected one, the prompts: bind the others; {PAIRED} pass any on"
        )
    return values[0]

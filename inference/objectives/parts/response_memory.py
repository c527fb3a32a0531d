"""Responses so far, with the gradient of log q at each: the observations of `GaussNewton`."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from inference.objectives.parts.states import part_of
from model import Prompts


@dataclass(frozen=True)
class Observed:
    """K responses to each of N prompts, drawn by one guide of D parameters."""

    point: Tensor  # parameters of the guide, `[D]`
    gradient: Tensor  # gradient of log q, `[K N, D]`
    log_target: Tensor  # log of the target, not normalised, `[K N]`, nats, float64
    log_drawn: Tensor  # log q, `[K N]`, nats, float64
    prompt: Tensor  # number of the response's prompt, `[K N]`


class ResponseMemory:
    """M responses in batches, the oldest first. No tensor is changed in place.

    Args:
        point: parameters at the start, `[D]`.

    Attributes:
        point: parameters now, `[D]`.
        batches: the responses.
        product: gradients times their transpose, `[M, M]`, in the gradients' type or float32.
        log_guide: log q now by the gradients, to first order, `[M]`, nats, float64.
        names: names of the prompts, by number.
    """

    def __init__(self, point: Tensor) -> None:
        wide = torch.promote_types(point.dtype, torch.float32)
        self.point, self.product = point, point.new_zeros(0, 0, dtype=wide)
        self.log_guide = point.new_zeros(0, dtype=torch.float64)
        self.batches: list[Observed] = []
        self.names: list[str] = []

    @property
    def log_target(self) -> Tensor:
        """log of the target, not normalised, `[M]`, nats, float64."""
        return torch.cat([batch.log_target for batch in self.batches])

    @property
    def log_drawn(self) -> Tensor:
        """log q of the guide that drew the response, `[M]`, nats, float64."""
        return torch.cat([batch.log_drawn for batch in self.batches])

    @property
    def prompt(self) -> Tensor:
        """Number of the response's prompt, `[M]`."""
        return torch.cat([batch.prompt for batch in self.batches])

    def along(self, directions: Tensor) -> Tensor:
        """Gradients times directions `[D, ...]`, `[M, ...]`, float64."""
        return torch.cat([(batch.gradient @ directions).double() for batch in self.batches])

    def combined(self, coefficients: Tensor) -> Tensor:
        """Sum of the gradients by coefficients `[M]`, `[D]`."""
        sizes = [len(batch.gradient) for batch in self.batches]
        parts = coefficients.to(self.point.dtype).split(sizes)
        pairs = zip(parts, self.batches, strict=True)
        return torch.stack([part @ batch.gradient for part, batch in pairs]).sum(0)

    def move(self, point: Tensor) -> None:
        """Set the parameters, and log q of all responses along the gradients."""
        if self.batches:
            self.log_guide = self.log_guide + self.along(point - self.point)
        self.point = point

    def add(
        self, prompts: Prompts, gradient: Tensor, log_target: Tensor, log_guide: Tensor
    ) -> None:
        """Add responses: gradient `[K, N, D]`; log densities `[K, N]`, nats, float64."""
        names = prompts.names()
        self.names = list(dict.fromkeys([*self.names, *names]))
        numbers = torch.tensor([self.names.index(name) for name in names], device=gradient.device)
        rows, log_drawn = gradient.flatten(0, 1), log_guide.flatten()
        prompt = numbers.repeat(len(gradient))
        batch = Observed(self.point, rows, log_target.flatten(), log_drawn, prompt)
        self.batches = [*self.batches, batch]
        across = self.along(rows.T)  # [M, K N]
        old = len(self.product)
        product = self.product.new_empty(len(across), len(across))
        product[:old, :old], product[:, old:], product[old:] = self.product, across, across.T
        self.product = product
        self.log_guide = torch.cat([self.log_guide, log_drawn])

    def forget(self, capacity: int) -> None:
        """Drop the oldest batches while more than `capacity` responses are older than the last."""
        last = len(self.batches[-1].gradient)
        while len(self.product) - last > capacity:
            size = len(self.batches[0].gradient)
            self.batches, self.log_guide = self.batches[1:], self.log_guide[size:]
            self.product = self.product[size:, size:]

    def get_state(self) -> dict[str, Tensor]:
        """The memory as tensors, for checkpoints; see `from_state`."""
        state = {"product": self.product, "log_guide": self.log_guide}
        for number, batch in enumerate(self.batches):
            state |= {f"batch/{number}/{part.name}": getattr(batch, part.name) for part in PARTS}
        return state | {f"name/{name}": torch.tensor(n) for n, name in enumerate(self.names)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """The memory of which `get_state` made the state."""
        # copies, since products round by the alignment of tensors, and those of a file have none
        state = {name: tensor.clone() for name, tensor in state.items()}
        parts = part_of(state, "batch/")
        numbers = range(len({name.split("/")[0] for name in parts}))
        batches = [Observed(**part_of(parts, f"{number}/")) for number in numbers]
        memory = cls(batches[-1].point)
        memory.batches = batches
        memory.product, memory.log_guide = state["product"], state["log_guide"]
        names = {name: int(n) for name, n in part_of(state, "name/").items()}
        memory.names = sorted(names, key=names.__getitem__)
        return memory


PARTS = fields(Observed)

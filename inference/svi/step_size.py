"""Size of a step in nats, on the responses that the step drew: one pass of the guide.

    size = 1/2 mean_x (log q_new(x) - log q_old(x))^2

log q_old is known from the step's loss. At most `MOST` responses are scored again.
"""

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.objectives.response_objective import Draws
from inference.programs import Program
from inference.svi.draw_matrices import total

MOST = 32
"""Largest number of responses behind a size, whose standard error is then a quarter of the size."""


@torch.no_grad()
def step_size(guide: Program, draws: list[Draws]) -> float:
    """Size of the step from the guide that made the draws to the guide as it is now, nats.

    The mean over draws and prompts. NaN if the guide has no numbers any more.
    """
    squares, weights = [], []
    for batch in map(_first, draws):
        values = _Values(batch.values)
        with pyro.validation_enabled(False), poutine.block(), values:
            guide(batch.prompts)
        old = total(batch.log_guide)
        change = total(values.log_guide) - old
        weight = old.exp() if batch.every else torch.ones_like(old)
        # an impossible value stays impossible, and infinity minus infinity is no number
        change = torch.where(weight == 0, 0.0, change)
        squares.append((weight * change.square()).sum())
        weights.append(weight.sum())
    return 0.5 * (torch.stack(squares).sum() / torch.stack(weights).sum()).item()


def _first(draws: Draws) -> Draws:
    """The first draws, at most `MOST` responses, if one site has `[K, N]` draws."""
    [(name, value), *others] = draws.values.items()
    log_guide = draws.log_guide[name]
    if others or draws.every or log_guide.dim() != 2:
        return draws
    number = max(1, MOST // log_guide.shape[1])
    return draws._replace(values={name: value[:number]}, log_guide={name: log_guide[:number]})


class _Values(Messenger):
    """Handler that gives the sites of a guide their values, and keeps log q of each."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_guide: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict) -> None:
        if (value := self.values.get(msg["name"])) is not None:
            self.log_guide[msg["name"]] = msg["fn"].log_prob(value)
            msg["value"], msg["done"] = value, True

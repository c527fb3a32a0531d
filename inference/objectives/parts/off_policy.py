"""Responses that the guide would not draw now: bolder draws, and a replay buffer of earlier ones.

    a(x) = the guide q with its logits divided by a temperature of at least 1
    size = 1/2 mean_x (log a(x) - log q(x))^2,   x ~ a     near KL(a || q)

One temperature is a short distance on short responses and a long one on long responses: 1.5 is 0.15
nats on four tokens of a random network, and many nats on 24 tokens of English. The size grows as
the square of (temperature - 1), to which the temperature of the next batch is fitted.
"""

import math
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference.objectives.parts.states import part_of
from inference.programs import autoregressive
from model import Prompts, ResponseDistribution
from model.common.checks import finite, whole_number

START = 1.05  # temperature of the first batch, before a size is measured
LARGEST = 2.0  # largest temperature, of a guide that is nearly uniform or deterministic
GROWTH = 2.0  # largest factor of temperature - 1 from batch to batch
DECAY = 0.25  # smallest factor


class Exploration:
    """Temperature of bolder draws whose size is `kl` nats a response, the mean over prompts.

        exploration = Exploration(0.15)
        exploration.measure(log_ratio)  # log a - log q of the draws, [K, N]
        exploration.temperature  # of the next batch

    Args:
        kl: KL(a || q) of the bolder draws, nats a response; 0 for draws of the guide.
    """

    def __init__(self, kl: float) -> None:
        self.kl = finite("exploration_kl", kl, at_least=0)
        self.temperature = START if self.kl else 1.0

    @torch.no_grad()
    def measure(self, log_ratio: Tensor) -> None:
        """Adapt the temperature to draws at the temperature, given log a - log q `[K, N]`, nats."""
        if not self.kl:
            return
        size = 0.5 * log_ratio.double().square().mean().item()
        factor = GROWTH if size == 0 else math.sqrt(self.kl / size)
        # NaN, of a guide that is to be undone, leaves the smallest factor
        factor = min(factor, GROWTH) if factor >= DECAY else DECAY
        self.temperature = min(1 + (self.temperature - 1) * factor, LARGEST)

    def get_state(self) -> dict[str, Tensor]:
        """The temperature, for checkpoints."""
        return {"temperature": torch.tensor(self.temperature, dtype=torch.float64)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.temperature = state["temperature"].item()


def tempered(distribution: TorchDistribution, temperature: float) -> ResponseDistribution:
    """An autoregressive distribution with its logits divided by one more number."""
    return autoregressive(distribution).at_temperature(distribution.temperature * temperature)


class Memory(NamedTuple):
    """B different responses `[B, T]` to one prompt, the oldest first; log-joint `[B]`, nats."""

    response: Tensor
    log_joint: Tensor


class ReplayBuffer:
    """Responses drawn so far, for off-policy objectives.

    Args:
        capacity: Largest number of responses to a prompt; the oldest leave first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = whole_number("capacity", capacity)
        self.memory: dict[str, Memory] = {}

    def add(self, prompts: Prompts, response: Tensor, log_joint: Tensor) -> None:
        """Add the new ones among responses `[K, N, T]` with `log_joint` `[K, N]`."""
        for n, name in enumerate(prompts.names()):
            rows, values = response[:, n], log_joint[:, n]
            if (old := self.memory.get(name)) is not None:
                rows, values = torch.cat([old.response, rows]), torch.cat([old.log_joint, values])
            first = _first_of_each(rows)[-self.capacity :]
            self.memory[name] = Memory(rows[first], values[first])

    def draw(self, prompts: Prompts, num_draws: int) -> tuple[Tensor, Tensor]:
        """Draw uniformly, each once if possible: `[R, N, T]`, and log-joint `[R, N]`, nats."""
        num_draws = whole_number("num_draws", num_draws)
        memories, rows = [], []
        for name in prompts.names():
            if (memory := self.memory.get(name)) is None:
                raise ValueError(f"the buffer has no response to {name!r}, expected one added")
            size = len(memory.log_joint)
            orders = [torch.randperm(size) for _ in range(-(-num_draws // size))]
            memories.append(memory)
            rows.append(torch.cat(orders)[:num_draws])
        index = torch.stack(rows).to(memories[0].response.device)  # one copy for all prompts
        pairs = list(zip(memories, index, strict=True))
        response = torch.stack([memory.response[own] for memory, own in pairs], 1)
        return response, torch.stack([memory.log_joint[own] for memory, own in pairs], 1)

    def get_state(self) -> dict[str, Tensor]:
        """Responses and log-joints of each prompt, for checkpoints."""
        responses = {f"response/{name}": part.response for name, part in self.memory.items()}
        return responses | {f"log_joint/{name}": m.log_joint for name, m in self.memory.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        responses, log_joint = part_of(state, "response/"), part_of(state, "log_joint/")
        self.memory = {name: Memory(rows, log_joint[name]) for name, rows in responses.items()}


def _first_of_each(rows: Tensor) -> Tensor:
    """Index of the first occurrence of each different row of `[B, T]`, in that order."""
    different, group = rows.unique(dim=0, return_inverse=True)
    first = torch.full((len(different),), len(rows), device=rows.device)
    first.scatter_reduce_(0, group, torch.arange(len(rows), device=rows.device), "amin")
    return first.sort().values

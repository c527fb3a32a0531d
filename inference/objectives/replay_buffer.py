"""A replay buffer: different earlier responses with their log-joint, for each prompt."""

from typing import NamedTuple

import torch
from torch import Tensor

from inference.objectives.response_objective import part_of
from model import Prompts
from model.common.checks import whole_number


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
        draws = []
        for name in prompts.names():
            if (memory := self.memory.get(name)) is None:
                raise ValueError(f"the buffer has no response to {name!r}, expected one added")
            size = len(memory.log_joint)
            orders = [torch.randperm(size) for _ in range(-(-num_draws // size))]
            index = torch.cat(orders)[:num_draws].to(memory.response.device)
            draws.append(Memory(memory.response[index], memory.log_joint[index]))
        response, log_joint = zip(*draws, strict=True)
        return torch.stack(response, 1), torch.stack(log_joint, 1)

    def get_state(self) -> dict[str, Tensor]:
        """Responses and log-joints of each prompt, for checkpoints."""
        responses = {f"response/{name}": part.response for name, part in self.memory.items()}
        return responses | {f"log_joint/{name}": m.log_joint for name, m in self.memory.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        responses, log_joint = part_of(state, "response/"), part_of(state, "log_joint/")
        self.memory = {name: Memory(rows, log_joint[name]) for name, rows in responses.items()}


def _first_of_each(rows: Tensor) -> Tensor:
    """Index of the first occurrence of each different row of `[B, T]`, in that order."""
    _, group = rows.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(rows), device=rows.device)
    first.scatter_reduce_(0, group, torch.arange(len(rows), device=rows.device), "amin")
    return first.sort().values

"""A replay buffer: responses seen before, each once, with their log-joint, for each prompt on its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inference.objectives.response_objective import part_of
from model import Prompts
from model.common.checks import whole_number


class Seen(NamedTuple):
    """B different responses to one prompt, the oldest first.

    Attributes:
        response: `[B, T]`, token ids.
        log_joint: `[B]`, log p0(x) + r(x)/beta, nats; it never has to be computed again.
    """

    response: Tensor
    log_joint: Tensor


class ReplayBuffer:
    """Keeps what was drawn, so that off-policy objectives can learn from it again.

    Args:
        capacity: most responses kept for a prompt; the oldest leave first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = whole_number("capacity", capacity)
        self.seen: dict[str, Seen] = {}

    def add(self, prompts: Prompts, response: Tensor, log_joint: Tensor) -> None:
        """Add `response` `[K, N, T]` with `log_joint` `[K, N]`; what is in the buffer already is not added again."""
        for n, name in enumerate(prompts.names()):
            new = Seen(response[:, n], log_joint[:, n])
            old = self.seen.get(name)
            both = (
                new
                if old is None
                else Seen(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
            )
            kept = _first_of_each(both.response)[-self.capacity :]
            self.seen[name] = Seen(both.response[kept], both.log_joint[kept])

    def draw(self, prompts: Prompts, num_draws: int) -> tuple[Tensor, Tensor]:
        """Uniform draws for each prompt, without replacement while there are enough: `[R, N, T]`, and log-joint `[R, N]`."""
        num_draws = whole_number("num_draws", num_draws)
        drawn = []
        for name in prompts.names():
            if name not in self.seen:
                raise ValueError(
                    f"the buffer has no response to {name!r}, expected a prompt that was added"
                )
            seen = self.seen[name]
            size = len(seen.log_joint)
            order = torch.cat([torch.randperm(size) for _ in range(-(-num_draws // size))])[
                :num_draws
            ]
            drawn.append(Seen(*(kept[order.to(kept.device)] for kept in seen)))
        return torch.stack([part.response for part in drawn], 1), torch.stack(
            [part.log_joint for part in drawn], 1
        )

    def get_state(self) -> dict[str, Tensor]:
        """By prompt, for checkpoints."""
        responses = {f"response/{name}": seen.response for name, seen in self.seen.items()}
        return responses | {f"log_joint/{name}": seen.log_joint for name, seen in self.seen.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `get_state` gave."""
        log_joint = part_of(state, "log_joint/")
        self.seen = {
            name: Seen(response, log_joint[name])
            for name, response in part_of(state, "response/").items()
        }


def _first_of_each(rows: Tensor) -> Tensor:
    """Where each different row `[B, T]` comes up first, in that order."""
    _, group = rows.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(rows), device=rows.device)
    first.scatter_reduce_(0, group, torch.arange(len(rows), device=rows.device), "amin")
    return first.sort().values

"""Numbers for the prompts of guides that have a table for each prompt."""

import torch
from torch import Tensor

from model import Prompts
from model.common.checks import instance


class PromptIndex:
    """Map from `prompts`, all that the guide will be called with, to numbers; equal ones share."""

    def __init__(self, prompts: Prompts) -> None:
        instance("prompts", prompts, Prompts, why="`prior.encode([...])` makes them of texts")
        self.number: dict[tuple[int, ...], int] = {}
        for row in prompts.rows():
            self.number.setdefault(tuple(row), len(self.number))

    def __len__(self) -> int:
        return len(self.number)

    def __call__(self, prompts: Prompts) -> Tensor:
        """Number of each prompt, `[N]`. Raises `ValueError` if a prompt is new."""
        numbers = [self.number.get(tuple(row)) for row in prompts.rows()]
        if None in numbers:
            raise ValueError(
                f"the guide has no table for the prompt {prompts.texts[numbers.index(None)]!r}: "
                f"build the guide with all {len(self)} prompts and this one"
            )
        return torch.tensor(numbers, device=prompts.ids.device)

"""Which prompt is which, for guides that have a table for each."""

from __future__ import annotations

import torch
from torch import Tensor

from model import Prompts
from model.common.checks import instance


class PromptIndex:
    """Numbers the prompts that a guide is for; the same prompt twice has one number.

    Args:
        prompts: all that the guide will be asked about.
    """

    def __init__(self, prompts: Prompts) -> None:
        instance("prompts", prompts, Prompts, why="`prior.encode([...])` makes them of texts")
        self.number: dict[tuple[int, ...], int] = {}
        for key in _keys(prompts):
            self.number.setdefault(key, len(self.number))

    def __len__(self) -> int:
        return len(self.number)

    def __call__(self, prompts: Prompts) -> Tensor:
        """The number of each prompt, `[N]`.

        Raises:
            ValueError: if one is new.
        """
        keys = _keys(prompts)
        for key, text in zip(keys, prompts.texts, strict=True):
            if key not in self.number:
                raise ValueError(
                    f"the guide has no table for the prompt {text!r}: build it with all {len(self)} prompts and this one"
                )
        return torch.tensor([self.number[key] for key in keys], device=prompts.ids.device)


def _keys(prompts: Prompts) -> list[tuple[int, ...]]:
    return [tuple(row) for row in prompts.rows()]

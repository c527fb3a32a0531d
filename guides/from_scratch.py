"""Guides with parameters of their own, which share only the response space with the prior."""

from typing import Self

import torch
from torch import Tensor

from guides.guide import Guide, check_prior
from model import LanguageModel, Prompts, ResponseDistribution, ResponseSpace
from model.prior.decoder import Decoder
from model.prior.prompts import check_prompts


def like(prior: LanguageModel) -> Tensor:
    """Empty tensor on the prior's device, in the prior's data type or float32 if that is wider."""
    dtype = torch.promote_types(prior.network.dtype, torch.float32)
    return torch.empty(0, device=prior.device, dtype=dtype)


class Rows(tuple[Tensor, ...]):
    """State of B sequences: tensors with B rows."""

    def select(self, rows: Tensor) -> Self:
        return type(self)(tensor[rows] for tensor in self)


class FromScratch(Guide, Decoder):
    """Abstract autoregressive guide that is its own `Decoder`; subclasses add `start` and `extend`.

    Args:
        prior: Source of the vocabulary, the end ids and the longest response.
    """

    end_ids: Tensor

    def __init__(self, prior: LanguageModel) -> None:
        super().__init__()
        space = check_prior(prior).space
        self.max_new_tokens, self.vocab_size = space.max_new_tokens, space.vocab_size
        self.pad_id, self.vocabulary = space.pad_id, space.vocabulary
        self.register_buffer("end_ids", space.end_ids.clone(), persistent=False)

    @property
    def space(self) -> ResponseSpace:
        """Response space of the guide, on the guide's device."""
        return ResponseSpace(
            self.max_new_tokens, self.vocab_size, self.end_ids, self.pad_id, self.vocabulary
        )

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return ResponseDistribution(self, prompts, self.space)


class PromptIndex:
    """Map from `prompts`, all that the guide will be called with, to numbers; equal ones share."""

    def __init__(self, prompts: Prompts) -> None:
        check_prompts(prompts)
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

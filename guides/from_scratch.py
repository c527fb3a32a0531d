"""Guides with parameters of their own, which take from the prior what responses look like and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from guides.guide import Guide, check_prior
from model import LanguageModel, Prompts, ResponseDistribution, ResponseSpace


def like(prior: LanguageModel) -> Tensor:
    """An empty tensor like a guide's parameters: on the prior's device, in its dtype but in no less than float32."""
    return torch.empty(
        0, device=prior.device, dtype=torch.promote_types(prior.network.dtype, torch.float32)
    )


class FromScratch(Guide):
    """An autoregressive guide that is its own decoder. A new one implements `start` and `extend`, as `Decoder` has them.

    Args:
        prior: gives the vocabulary, the end ids and the length.
    """

    end_ids: Tensor

    def __init__(self, prior: LanguageModel) -> None:
        super().__init__()
        space = check_prior(prior).space
        self.max_new_tokens, self.vocab_size, self.pad_id = (
            space.max_new_tokens,
            space.vocab_size,
            space.pad_id,
        )
        self.vocabulary = space.vocabulary
        self.register_buffer("end_ids", space.end_ids.clone(), persistent=False)

    @property
    def space(self) -> ResponseSpace:
        """What its responses look like."""
        return ResponseSpace(
            self.max_new_tokens, self.vocab_size, self.end_ids, self.pad_id, self.vocabulary
        )

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return ResponseDistribution(self, prompts, self.space)

    @abstractmethod
    def start(self, prompts: Prompts) -> tuple[Tensor, Any]:
        """See `Decoder`."""

    @abstractmethod
    def extend(self, state: Any, ids: Tensor) -> tuple[Tensor, Any]:
        """See `Decoder`."""

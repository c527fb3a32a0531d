"""Full fine-tuning: q_phi(x) is a copy of the prior with every weight free; phi starts at the prior's weights."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from guides.guide import Guide
from model import LanguageModel, Prompts, ResponseDistribution


class FineTuned(Guide):
    """A copy of the prior that trains; q = p0 exactly at the start.

    Args:
        prior: the language model to copy; it stays as it is.
        dtype: of the copy's weights, if other than the prior's. Training in bfloat16 loses small updates.
    """

    def __init__(self, prior: LanguageModel, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.language_model = copy.deepcopy(prior).to(dtype=dtype)
        self.language_model.network.requires_grad_(True)

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return self.language_model(prompts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tuned network and its tokenizer in Hugging Face format; `transformers` alone loads them again."""
        self.language_model.save_pretrained(folder)

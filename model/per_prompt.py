"""A number for all prompts, or one for each by its text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.prompts import Prompts


def beta_at(beta: float | Mapping[str, float], prompts: Prompts) -> float | Tensor:
    """beta, one number or `[N]` for N prompts.

    Raises:
        ValueError: if a prompt has none.
    """
    if not isinstance(beta, Mapping):
        return beta
    missing = [text for text in prompts.texts if text not in beta]
    if missing:
        raise ValueError(f"beta has no entry for the prompt {missing[0]!r}, expected one for each prompt by its text")
    return torch.tensor([beta[text] for text in prompts.texts], dtype=torch.float64, device=prompts.ids.device)

"""A number for all prompts, or one for each by its text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.common.checks import positive
from model.prior.prompts import Prompts


def checked_beta(beta: float | Mapping[str, float]) -> float | dict[str, float]:
    """beta, one number or one for each prompt by its text, if all are positive and finite.

    Raises:
        ValueError: if one is not, or there are none at all.
    """
    why = "at 0 the posterior is a point mass, with no density, and at infinity it is the prior"
    if not isinstance(beta, Mapping):
        return positive("beta", beta, why=why)
    if not beta:
        raise ValueError("beta is {}, expected a number, or one for each prompt by its text")
    return {
        text: positive(f"for the prompt {text!r} beta", value, why=why)
        for text, value in beta.items()
    }


def beta_at(beta: float | Mapping[str, float], prompts: Prompts) -> float | Tensor:
    """beta, one number or `[N]` for N prompts.

    Raises:
        ValueError: if a prompt has none.
    """
    if not isinstance(beta, Mapping):
        return beta
    missing = [text for text in prompts.texts if text not in beta]
    if missing:
        raise ValueError(
            f"beta has no entry for the prompt {missing[0]!r}, expected one for each prompt by its text"
        )
    return torch.tensor(
        [beta[text] for text in prompts.texts], dtype=torch.float64, device=prompts.ids.device
    )

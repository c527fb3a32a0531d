"""The length of a response as a reward."""

from __future__ import annotations

import torch
from torch import Tensor

from model.common.checks import instance, whole_number
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class Length:
    """r(x) = number of tokens of x, its end not counted; or minus how far that is from a target.

    Evidence by itself, with no text decoded. A negative reward for length is this one with a negative weight.

    Args:
        language_model: knows where a response ends.
        target: tokens; default none, so that longer is better.

    Raises:
        ValueError: if no response can have the target length.
    """

    def __init__(self, language_model: LanguageModel, target: int | None = None) -> None:
        longest = instance(
            "language_model", language_model, LanguageModel, why="the prior"
        ).max_new_tokens
        if target is not None:
            target = whole_number(
                "target",
                target,
                at_least=0,
                at_most=longest,
                why="tokens, of which a response has no more",
            )
        self.language_model = language_model
        self.target = target
        self.upper_bound = float(longest) if target is None else 0.0

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """`[..., N]` for responses `[..., N, T]`, float64.

        Raises:
            OtherLanguageModelError: if prompts or responses are of another language model.
        """
        space = self.language_model.space
        space.check(prompts, response)
        kept = space.is_token(response) & ~torch.isin(response, space.end_ids)
        length = kept.sum(-1).double()
        return length if self.target is None else -(length - self.target).abs()

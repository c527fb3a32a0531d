"""Evidence from a function of token ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.language_model import LanguageModel
from model.prompts import Prompts


@dataclass(frozen=True)
class TokenEvidence:
    """r(x) = function(token ids of x).

    Attributes:
        function: takes responses `[..., N, T]` and their mask of the same shape, True at tokens (the end id included), False at
            padding; returns `[..., N]`.
        language_model: knows where a response ends.
        upper_bound: the largest value that `function` can return, if known. Needed for rejection sampling.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    language_model: LanguageModel
    upper_bound: float | None = None

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        return self.function(response, self.language_model.space.is_token(response))

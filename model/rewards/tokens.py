"""Reward from a function of token ids."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.common.checks import finite, function, instance
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts

ROUNDING = 0.02
"""Share of the largest value that networks in half precision may differ by in another batch."""


@dataclass(frozen=True)
class TokenReward:
    """r(x) = function(token ids of x).

    Attributes:
        function: takes responses `[..., N, T]` and their mask of the same shape, True at tokens
            (the end id included), False at padding; returns `[..., N]`.
        language_model: knows where a response ends.
        upper_bound: largest possible value, as rejection sampling needs; None if unknown.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    language_model: LanguageModel
    upper_bound: float | None = None

    def __post_init__(self) -> None:
        instance("language_model", self.language_model, LanguageModel)
        function("function", self.function, takes=2, why="token ids and their mask")
        if self.upper_bound is not None:
            finite("upper_bound", self.upper_bound, why="or None if not known")

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`."""
        space = self.language_model.space
        space.check(prompts, response)
        return self.function(response, space.is_token(response))

    @property
    def name(self) -> str:
        """Name in errors."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def repeat_difference(self, prompts: Prompts, response: Tensor) -> float:
        """Largest difference of a reward and the reward of the same response in another call.

        0 for a difference that rounding explains.
        """
        return difference_of(self(prompts, response), self(prompts, response))


def difference_of(first: Tensor, second: Tensor) -> float:
    """Largest difference of the values of two calls; 0 if rounding explains every difference.

    NaN in either call is left out.
    """
    first, second = first.double(), second.double()
    differs = (first != second) & ~first.isnan() & ~second.isnan()
    difference = (first - second).abs()[differs]
    both = torch.cat([first, second])
    size = both[both.isfinite()].abs()
    is_noise = difference > ROUNDING * max(size.tolist(), default=0.0)
    return max(difference[is_noise].tolist(), default=0.0)

"""Soft length limit: the overlong punishment of DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 13).

    r(x) = 0                                if L <= longest - margin
         = ((longest - margin) - L)/margin  if longest - margin < L <= longest
         = -1                               if L > longest

L is the number of tokens of x.
"""

from torch import Tensor

from model.common.checks import instance, whole_number
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class LengthLimit:
    """0 for a response that is short enough, down to -1 at the limit, and -1 beyond.

    Args:
        language_model: knows where a response ends; the end id is no token of the length.
        longest: the limit, number of tokens, at most `max_new_tokens`.
        margin: number of tokens below the limit in which the reward falls from 0 to -1; 0 for a
            step.
    """

    upper_bound = 0.0

    def __init__(self, language_model: LanguageModel, longest: int, margin: int) -> None:
        self.language_model = instance("language_model", language_model, LanguageModel)
        most, why = language_model.max_new_tokens, "tokens, of which a response has no more"
        self.longest = whole_number("longest", longest, at_most=most, why=why)
        why = "tokens, at most the limit"
        self.margin = whole_number("margin", margin, at_least=0, at_most=longest, why=why)

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64."""
        self.language_model.space.check(prompts, response)
        length = self.language_model.space.is_word(response).sum(-1).double()
        excess = length - (self.longest - self.margin)
        if self.margin == 0:
            return -(excess > 0).double()
        return -(excess / self.margin).clamp(0, 1)

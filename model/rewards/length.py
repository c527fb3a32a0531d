"""Length of a response as a reward."""

from torch import Tensor

from model.common.checks import instance, whole_number
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class Length:
    """r(x) = number of tokens of x without its end, or minus the distance to a target length.

    Give the length a negative weight in a `WeightedSum` for shorter responses.

    Args:
        language_model: knows where a response ends.
        target: number of tokens, at most `max_new_tokens`; by default there is none.
    """

    def __init__(self, language_model: LanguageModel, target: int | None = None) -> None:
        instance("language_model", language_model, LanguageModel, why="the prior")
        longest = language_model.max_new_tokens
        if target is not None:
            why = "tokens, of which a response has no more"
            target = whole_number("target", target, at_least=0, at_most=longest, why=why)
        self.language_model = language_model
        self.target = target
        self.upper_bound = float(longest) if target is None else 0.0

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64."""
        self.language_model.space.check(prompts, response)
        length = self.language_model.space.is_word(response).sum(-1).double()
        return length if self.target is None else -(length - self.target).abs()

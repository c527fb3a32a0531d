"""Length of a response as a reward: the number of tokens, or a soft limit of the number.

The soft limit is the overlong punishment of DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 13).
"""

from torch import Tensor

from model.common.checks import instance, whole_number
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts

MORE = "tokens, of which a response has no more"


class Length:
    """r(x) = number of tokens of x without its end, or minus the distance to a target length.

    Give the length a negative weight in a `WeightedSum` for shorter responses.

    Args:
        language_model: knows where a response ends.
        target: number of tokens, at most `max_new_tokens`; by default there is none.
    """

    def __init__(self, language_model: LanguageModel, target: int | None = None) -> None:
        self.language_model = instance("language_model", language_model, LanguageModel)
        longest = language_model.max_new_tokens
        if target is not None:
            target = whole_number("target", target, at_least=0, at_most=longest, why=MORE)
        self.target = target
        self.upper_bound = float(longest) if target is None else 0.0

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64."""
        length = _num_words(self.language_model, prompts, response)
        return length if self.target is None else -(length - self.target).abs()


class LengthLimit:
    """0 for a response that is short enough, down to -1 at the limit, and -1 beyond.

        r(x) = -clamp((L - (longest - margin)) / max(margin, 1), 0, 1)

    L is the number of tokens of x before the end id.

    Args:
        language_model: knows where a response ends; the end id is no token of the length.
        longest: the limit, number of tokens, at most `max_new_tokens`.
        margin: number of tokens below the limit in which the reward falls from 0 to -1; 0 for a
            step.
    """

    upper_bound = 0.0

    def __init__(self, language_model: LanguageModel, longest: int, margin: int) -> None:
        self.language_model = instance("language_model", language_model, LanguageModel)
        most, why = language_model.max_new_tokens, "tokens, at most the limit"
        self.longest = whole_number("longest", longest, at_most=most, why=MORE)
        self.margin = whole_number("margin", margin, at_least=0, at_most=longest, why=why)

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64."""
        length = _num_words(self.language_model, prompts, response)
        excess = length - (self.longest - self.margin)
        return -(excess / max(1, self.margin)).clamp(0, 1)


def _num_words(language_model: LanguageModel, prompts: Prompts, response: Tensor) -> Tensor:
    """Number of tokens of responses `[..., N, T]` before their end, `[..., N]`, float64."""
    language_model.space.check(prompts, response)
    return language_model.space.is_word(response).sum(-1).double()

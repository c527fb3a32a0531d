"""Judge of texts: the probability that one of two responses is better, from a function of texts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.common import checks
from model.common.checks import instance
from model.common.texts import quoted
from model.likelihood import LikelihoodError
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.rewards.exchange import as_number, exchanges, listed, settled


class TextJudge:
    """P(first beats second) by a function of texts, for `SelfPlay` and `OnlineDPO`.

        shorter = lambda prompts, first, second: [len(a) < len(b) for a, b in zip(first, second)]
        judge = TextJudge(shorter, prior)
        judge(prompts, *prior(prompts).sample((2, 8)))  # [8, N]

    In each call the function sees a pair of different texts once, in one order, and a pair of equal
    texts never: its probability is 1/2.

    Args:
        function: takes three lists, of M prompts, first and second responses, and returns M
            probabilities; may be asynchronous. A response is a text without its end, a prompt a
            text, or the messages of a chat.
        language_model: decodes the responses.
    """

    def __init__(self, function: Callable[..., Any], language_model: LanguageModel) -> None:
        why = "prompts, first and second responses"
        self.function = checks.function("function", function, takes=3, why=why)
        self.language_model = instance("language_model", language_model, LanguageModel)
        self.name = getattr(function, "__name__", type(function).__name__)

    def __call__(self, prompts: Prompts, first: Tensor, second: Tensor) -> Tensor:
        """Probabilities for responses `[M, N, T]`, `[M, N]`, float64."""
        for response in (first, second):
            self.language_model.space.check(prompts, response)
        one, other = (exchanges(self.language_model, prompts, each) for each in (first, second))
        keys = [(a.name, a.text, b.text) for a, b in zip(one, other, strict=True)]
        new = {}
        for (name, a, b), exchange in zip(keys, one, strict=True):
            if a != b and (name, b, a) not in new:
                new[name, a, b] = exchange.prompt
        wins = self._probabilities(new)
        wins |= {(name, b, a): 1 - value for (name, a, b), value in wins.items()}
        values = [wins.get(key, 0.5) for key in keys]
        return torch.tensor(values, dtype=torch.float64, device=first.device).view(first.shape[:-1])

    def _probabilities(self, new: dict[tuple[str, str, str], Any]) -> dict[Any, float]:
        """Probability of each pair of different texts, given with its prompt."""
        if not new:
            return {}
        texts = [first for _, first, _ in new], [second for _, _, second in new]
        values = listed(settled([self.function(list(new.values()), *texts)])[0])
        if values is None or len(values) != len(new):
            got = "no list" if values is None else f"{len(values)} numbers"
            raise LikelihoodError(
                f"the judge {self.name!r} returned {got} for {len(new)} pairs, expected a list of "
                "as many probabilities"
            )
        for (_, first, second), value in zip(new, values, strict=True):
            if not 0 <= as_number(value) <= 1:
                raise LikelihoodError(
                    f"the judge {self.name!r} returned {quoted(value)} for the pair "
                    f"{quoted(first)}, {quoted(second)}, expected a probability, from 0 to 1, that "
                    "the first beats the second"
                )
        return dict(zip(new, map(as_number, values), strict=True))

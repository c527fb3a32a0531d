"""Reward from a function of texts: each text is decoded, scored once, and remembered."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from model.common import checks
from model.common.checks import boolean, instance, whole_number
from model.common.provenance import through
from model.common.texts import quoted
from model.likelihood import LikelihoodError, for_each_prompt, upper_bound_of
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class TextReward:
    """r(x) = function(text of x).

        reward = TextReward(vader_sentiment, prior)
        reward(prompts, prior(prompts).sample((8,)))  # [8, N]

    The text is the prompt as written, then the response decoded, without its end. Special tokens
    are part of the text. A reward that is inferred from preferences reads the same texts.

    Args:
        function: takes a list of M different texts, returns M numbers. -inf rules a text out.
        language_model: decodes the responses.
        whole: score prompt and response together; else the response, decoded on its own.
        upper_bound: largest value, as rejection sampling needs; by default the function's own
            `upper_bound`, if there is one.
        name: name in errors; by default the function's own name.
        cache_size: number of texts whose reward is remembered; the least recent are dropped. Pass 0
            if the function does not give a text the same number each time.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Sequence[float] | Tensor],
        language_model: LanguageModel,
        *,
        whole: bool = True,
        upper_bound: float | None = None,
        name: str | None = None,
        cache_size: int = 65_536,
    ) -> None:
        self.function = checks.function("function", function, why="of a list of texts")
        self.language_model = instance("language_model", language_model, LanguageModel)
        self.whole = boolean("whole", whole)
        default_name = getattr(function, "__name__", type(function).__name__)
        self.name = instance("name", name or default_name, str)
        if upper_bound is None:
            upper_bound = upper_bound_of(self.name, function)
        else:
            checks.finite("upper_bound", upper_bound, why="or None if not known")
        self.upper_bound = upper_bound
        self.cache_size = whole_number("cache_size", cache_size, at_least=0)
        self._known: OrderedDict[str, float] = OrderedDict()

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64; errors quote the text."""
        return through(partial(self._score, prompts), response)

    def _score(self, prompts: Prompts, response: Tensor) -> Tensor:
        response = for_each_prompt(prompts, response)
        self.language_model.space.check(prompts, response)
        rows = response.reshape(-1, *response.shape[-2:])
        nested = self.language_model.decode(rows, prompts if self.whole else None)
        texts = [text for row in nested for text in row]
        reward_of = self._rewards(list(dict.fromkeys(texts)))
        rewards = torch.tensor([reward_of[text] for text in texts], dtype=torch.float64)
        return rewards.to(response.device).view(response.shape[:-1])

    def _rewards(self, texts: list[str]) -> dict[str, float]:
        """The reward of each of M different texts."""
        new = [text for text in texts if text not in self._known]
        rewards = {text: self._known[text] for text in texts if text in self._known}
        if new:
            rewards |= zip(new, self._new_rewards(new), strict=True)
        for text in texts:
            self._known[text] = rewards[text]
            self._known.move_to_end(text)
        while len(self._known) > self.cache_size:
            self._known.popitem(last=False)
        return rewards

    def _new_rewards(self, texts: list[str]) -> list[float]:
        """The numbers that the function returns for M texts, checked."""
        try:
            returned = self.function(texts)
            returned = list(returned) if isinstance(returned, Iterator) else returned
        except Exception as error:
            raise self._failure(texts, error) from error
        values = _listed(returned)
        if values is None or len(values) != len(texts):
            shown = f"{quoted(returned)} ({type(returned).__name__})"
            raise LikelihoodError(
                f"the reward function {self.name!r} returned "
                f"{shown if values is None else f'{len(values)} numbers'} for {len(texts)} texts, "
                "expected a list of as many numbers"
            )
        numbers = [_number(value) for value in values]
        for text, value, number in zip(texts, values, numbers, strict=True):
            if math.isnan(number) or number == math.inf:
                got = f"reward {self.name!r} returned {quoted(value)} for the text {quoted(text)}"
                expected = "a finite number, or -inf for an impossible text"
                raise LikelihoodError(f"{got}, expected {expected}")
        return numbers

    def _failure(self, texts: list[str], error: Exception) -> LikelihoodError:
        """The error for a function that failed on M texts, with a text that fails alone."""
        for text in texts:
            try:
                self.function([text])
            except Exception as again:
                reason = f"text {quoted(text)}: {type(again).__name__}: {again}"
                return LikelihoodError(f"reward {self.name!r} failed on the {reason}")
        return LikelihoodError(
            f"reward {self.name!r} failed on {len(texts)} texts together, on none of them alone "
            f"(the first is {quoted(texts[0])}): {type(error).__name__}: {error}. Is the batch too "
            "large?"
        )


def _listed(returned: object) -> list[object] | None:
    """The values that a reward function returned, as a list; None for one value or a table."""
    if getattr(returned, "ndim", 1) != 1 or isinstance(returned, str | bytes | Mapping | Set):
        return None
    if isinstance(returned, Tensor):
        return returned.tolist()
    return list(returned) if isinstance(returned, Iterable) else None


def _number(value: object) -> float:
    """A number or truth value of Python, numpy or torch as a float; NaN for anything else."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    try:
        return float(value) if isinstance(value, Real | np.bool_) else math.nan
    except OverflowError:
        return math.nan

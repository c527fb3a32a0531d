"""Evidence from a function of texts: each text decoded once, scored once, and remembered."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from model.common import checks
from model.common.checks import boolean, finite, instance, whole_number
from model.common.provenance import through
from model.common.texts import quoted
from model.likelihood import Bounded, LikelihoodError, for_each_prompt
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class TextReward:
    """r(x) = function(text of x).

    The text is the prompt as written, then the response decoded, without its end. Special tokens are part of the text, those of
    a chat template and others that a response writes: a reward is inferred from the same texts that it is applied to.

    A text that came before is not scored again, so that `function` must give the same number each time; `cache_size=0` turns
    that off for one that does not.

    Args:
        function: takes a list of M different texts, returns M numbers. -inf says that a text is impossible.
        language_model: decodes the responses.
        whole: score prompt and response together; else the response, decoded on its own.
        upper_bound: the largest value that `function` can return, needed for rejection sampling. Default: the function's own
            `upper_bound`, if it has one.
        name: what errors call it; default the function's own name.
        cache_size: texts to remember, those not met for longest forgotten first.

    Raises:
        TypeError: if the function is not callable, or `language_model` no `LanguageModel`.
        ValueError: if the bound is not finite, or the size negative.
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
        self.upper_bound = (
            function.upper_bound
            if upper_bound is None and isinstance(function, Bounded)
            else upper_bound
        )
        if self.upper_bound is not None:
            finite("upper_bound", self.upper_bound, why="or None if not known")
        self.name = (name and instance("name", name, str)) or getattr(
            function, "__name__", type(function).__name__
        )
        self.cache_size = whole_number("cache_size", cache_size, at_least=0)
        self._known: OrderedDict[str, float] = OrderedDict()

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Rewards `[..., N]` of responses `[..., N, T]`, float64.

        Raises:
            LikelihoodError: with the text, if the function fails on it or returns what is no reward.
            OtherLanguageModelError: if prompts or responses are of another language model.
        """
        return through(
            lambda plain: self._score(prompts, for_each_prompt(prompts, plain)), response
        )

    def _score(self, prompts: Prompts, response: Tensor) -> Tensor:
        self.language_model.space.check(prompts, response)
        shape = response.shape[:-1]
        texts = self.language_model.decode(
            response.reshape(-1, *response.shape[-2:]), prompts if self.whole else None
        )
        flat = [text for row in texts for text in row]
        reward_of = self._rewards(list(dict.fromkeys(flat)))
        return torch.tensor(
            [reward_of[text] for text in flat], dtype=torch.float64, device=response.device
        ).view(shape)

    def _rewards(self, texts: list[str]) -> dict[str, float]:
        """The reward of each of M different texts."""
        new = [text for text in texts if text not in self._known]
        rewards = {text: self._known[text] for text in texts if text in self._known}
        if new:
            rewards |= zip(new, self._checked(new), strict=True)
        for text in texts:
            self._known[text] = rewards[text]
            self._known.move_to_end(text)
        while len(self._known) > self.cache_size:
            self._known.popitem(last=False)
        return rewards

    def _checked(self, texts: list[str]) -> list[float]:
        try:
            returned = self.function(texts)
            returned = list(returned) if isinstance(returned, Iterator) else returned
        except Exception as error:
            raise self._failure(texts, error) from error
        values = _listed(returned)
        if values is None:
            raise LikelihoodError(
                f"the reward function {self.name!r} returned {quoted(returned)} ({type(returned).__name__}) for "
                f"{len(texts)} texts, expected a list of as many numbers: it gets a list, and not one text at a time"
            )
        if len(values) != len(texts):
            raise LikelihoodError(
                f"the reward function {self.name!r} returned {len(values)} numbers for {len(texts)} texts, expected one each"
            )
        for text, value in zip(texts, values, strict=True):
            if not _is_reward(value):
                raise LikelihoodError(
                    f"reward {self.name!r} returned {quoted(value)} for the text {quoted(text)}, expected a finite number, "
                    "or -inf for an impossible text"
                )
        return [float(value) for value in values]  # type: ignore[arg-type] # `_is_reward` has looked at them

    def _failure(self, texts: list[str], error: Exception) -> LikelihoodError:
        """What to say of a function that raised `error` on M texts: which of them it fails on, tried one by one."""
        for text in texts:
            try:
                self.function([text])
            except Exception as again:
                return LikelihoodError(
                    f"reward {self.name!r} failed on the text {quoted(text)}: {type(again).__name__}: {again}"
                )
        return LikelihoodError(
            f"reward {self.name!r} failed on {len(texts)} texts together, on none of them alone (the first is "
            f"{quoted(texts[0])}): {type(error).__name__}: {error}. Is the batch too large?"
        )


def _listed(returned: object) -> list[object] | None:
    """The values that a reward function returned, as a list; None for a single value or a table."""
    if getattr(returned, "ndim", 1) != 1 or isinstance(returned, str | bytes | Mapping | Set):
        return None
    if isinstance(returned, Tensor):
        return returned.tolist()
    return list(returned) if isinstance(returned, Iterable) else None


def _is_reward(value: object) -> bool:
    """A number, one of numpy or of a tensor without dimensions too, or a truth value; not NaN and below infinity."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    if not isinstance(value, Real | np.bool_):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    return not math.isnan(number) and number < math.inf

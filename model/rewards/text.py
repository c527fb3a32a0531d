"""Reward from a function of texts: each text is decoded, scored once, and remembered."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.common import checks
from model.common.checks import boolean, instance, whole_number
from model.common.provenance import through
from model.common.texts import quoted
from model.likelihood import LikelihoodError, for_each_prompt, upper_bound_of
from model.networks.text_network import Chat
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts, check_prompts
from model.rewards.exchange import (
    Exchange,
    answered,
    checked_numbers,
    exchanges,
    opened,
    own_copies,
    settled,
)
from model.rewards.signatures import ForeignFunction
from model.rewards.tokens import difference_of

NUM_REPEATED = 16  # number of texts that are scored twice to tell whether a function repeats itself


class TextReward:
    """r(x) = function(text of x), or of the text, the prompt and the prompt's columns.

        reward = TextReward(vader_sentiment, prior)
        reward(prompts, prior(prompts).sample((8,)))  # [8, N]

    The text is the prompt as written, then the response decoded, without its end. For a chat the
    text is the response alone. A network with a chat template of its own reads the messages of the
    chat and the response as the assistant's message. Special tokens are part of the text, and so is
    the tag `<think>` at the end of a prompt, as chat templates write it.

    Functions with the parameters of TRL, verl or verifiers see prompts and columns too, and may
    return None for a prompt to which the reward does not apply (`rewards/signatures.py`). There
    the value is NaN, and `AlignmentModel` leaves the reward out.

    Args:
        function: takes a list of M different texts, returns M numbers. -inf rules a text out.
        language_model: decodes the responses.
        whole: score prompt and response together, for chats too; or False for the response alone,
            decoded on its own. By default as above. Functions of other libraries have no such
            choice.
        upper_bound: largest value, as rejection sampling needs; by default the function's own
            `upper_bound`, if there is one.
        name: name in errors; by default the function's own name.
        cache_size: number of texts whose reward is remembered; the least recent are dropped. Pass 0
            if the function does not give a text the same number each time: remembered noise is a
            part of r, and the posterior prefers lucky texts. `repeat_difference` tells.

    Raises:
        TypeError: if the parameters of the function are of no signature, or of several.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        language_model: LanguageModel,
        *,
        whole: bool | None = None,
        upper_bound: float | None = None,
        name: str | None = None,
        cache_size: int = 65_536,
    ) -> None:
        self.function = checks.function("function", function, why="of a list of texts")
        self.language_model = instance("language_model", language_model, LanguageModel)
        self.whole = whole if whole is None else boolean("whole", whole)
        default_name = getattr(function, "__name__", type(function).__name__)
        self.name = instance("name", name or default_name, str)
        self.foreign = ForeignFunction.of(function, self.name)
        if self.foreign is not None and whole is not None:
            library = self.foreign.signature.library
            fault = f"the reward function {self.name!r} has the parameters of {library}"
            raise ValueError(f"{fault}, which see prompt and response apart: leave out `whole`")
        if upper_bound is None:
            upper_bound = upper_bound_of(self.name, function)
        else:
            checks.finite("upper_bound", upper_bound, why="or None if not known")
        self.upper_bound = upper_bound
        self.cache_size = whole_number("cache_size", cache_size, at_least=0)
        self._known: OrderedDict[Hashable, float | None] = OrderedDict()
        self._applied: dict[str, bool] = {}

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64; errors quote the text.

        NaN for a prompt to which the reward does not apply.
        """
        return through(partial(self._score, prompts), response)

    def check_columns(self, prompts: Prompts) -> None:
        """Refuse prompts without a column that the function needs, by a `LikelihoodError`.

        The values are checked by the function's own `check_columns(columns)`, if there is one.
        """
        if self.foreign is not None:
            self.foreign.check_columns({name: of[0] for name, of in prompts.columns.items()})
        if hasattr(self.function, "check_columns"):
            self.function.check_columns(prompts.columns)

    def applies(self, prompts: Prompts) -> Tensor:
        """True for the prompts to which the reward applies, `[N]`.

        A function that may return None scores the empty response to a prompt that is new.
        """
        num_prompts = len(check_prompts(prompts))
        applies = torch.ones(num_prompts, dtype=torch.bool, device=prompts.ids.device)
        if self.foreign is None:
            return applies
        names, space = prompts.names(), self.language_model.space
        if new := [n for n, name in enumerate(names) if name not in self._applied]:
            self(prompts[new], space.of_rows([[]] * len(new)))
        return applies.new_tensor([self._applied[name] for name in names])

    def repeat_difference(self, prompts: Prompts, response: Tensor) -> float:
        """Largest difference of a reward and the reward of the same text in another call.

        0 for a difference that rounding explains. At most `NUM_REPEATED` texts of the responses
        `[K, N, T]` are scored again; their first rewards stay remembered.
        """
        keys, items = self._items(prompts, response)
        scored = dict(list(dict(zip(keys, items, strict=True)).items())[:NUM_REPEATED])
        first = self._rewards(scored)
        for key in scored:
            self._known.pop(key, None)
        second = self._rewards(scored)
        self._remember(first)
        return difference_of(*(_tensor([call[key] for key in scored]) for call in (first, second)))

    def _score(self, prompts: Prompts, response: Tensor) -> Tensor:
        response = for_each_prompt(prompts, response)
        keys, items = self._items(prompts, response)
        reward_of = self._rewards(dict(zip(keys, items, strict=True)))
        values = [reward_of[key] for key in keys]
        if self.foreign is not None:
            self._check_applied(items, values)
        return _tensor(values).to(response.device).view(response.shape[:-1])

    def _items(self, prompts: Prompts, response: Tensor) -> tuple[Sequence[Hashable], list[Any]]:
        """Keys, and texts or exchanges to score, of responses `[..., N, T]`, in their order."""
        self.language_model.space.check(prompts, response)
        rows = response.reshape(-1, *response.shape[-2:])
        if self.foreign is None:
            texts = self._texts(prompts, rows)
            return [text if isinstance(text, str) else repr(text) for text in texts], texts
        both = exchanges(self.language_model, prompts, rows)
        self.foreign.check_columns(both[0].columns)
        return [self.foreign.key(each) for each in both], both

    def _texts(self, prompts: Prompts, response: Tensor) -> list[str | Chat]:
        """The texts or chats to score of responses `[K, N, T]`, a list of K times N."""
        chats = prompts.messages
        whole = [chat is None if self.whole is None else self.whole for chat in chats]
        decode, num_rows = self.language_model.decode, len(response)
        wholes = decode(response, prompts) if any(whole) else [[""] * len(whole)] * num_rows
        alone = wholes if all(whole) else decode(response)
        reads_chats = self.whole is None and getattr(self.function, "reads_chats", False)
        begun = [opened(text) for text in prompts.texts]
        texts: list[str | Chat] = []
        for k in range(num_rows):
            for n, chat in enumerate(chats):
                text = (wholes if whole[n] else alone)[k][n]
                if chat is None or not reads_chats:
                    texts.append(text if whole[n] else begun[n] + text)
                else:
                    prompt, completion = answered(chat, begun[n], text)
                    texts.append([*prompt, *completion])
        return texts

    def _check_applied(self, items: Sequence[Exchange], values: Sequence[float | None]) -> None:
        """Refuse None for some of the responses to a prompt and numbers for others."""
        for item, value in zip(items, values, strict=True):
            if self._applied.setdefault(item.name, value is not None) == (value is not None):
                continue
            before = "a number" if value is None else "None"
            raise LikelihoodError(
                f"reward {self.name!r} returned {value} for the text {quoted(item.text)}, and "
                f"{before} for another response to the prompt {quoted(item.prompt)}: None says "
                "that the reward does not apply to the prompt, so expected None for all responses "
                "to the prompt, or for none"
            )

    def _rewards(self, items: Mapping[Hashable, Any]) -> dict[Hashable, float | None]:
        """The reward of each of M different texts or exchanges, by its key."""
        new = {key: item for key, item in items.items() if key not in self._known}
        rewards = {key: self._known[key] for key in items if key in self._known}
        if new:
            copies = self._copies([*new.values()])  # which a function may change
            try:
                returned = self._call(copies)
            except Exception as error:
                raise self._failure(new, error) from error
            if self.foreign is None and copies != [*new.values()]:
                fault = f"the reward function {self.name!r} changed its list of texts in place"
                raise LikelihoodError(f"{fault}: let it change a copy, as `list(texts)`")
            rewards |= self._checked(returned, new)
        self._remember({key: rewards[key] for key in items})
        return rewards

    def _remember(self, rewards: Mapping[Hashable, float | None]) -> None:
        """Remember rewards by the keys of their texts, and forget the least recent."""
        for key, reward in rewards.items():
            self._known[key] = reward
            self._known.move_to_end(key)
        while len(self._known) > self.cache_size:
            self._known.popitem(last=False)

    def _copies(self, items: list[Any]) -> list[Any]:
        """Copies of M texts or exchanges, none with a part of another."""
        if self.foreign is not None:
            return own_copies(items)
        return [item if isinstance(item, str) else copy.deepcopy(item) for item in items]

    def _call(self, items: list[Any]) -> Any:
        """Result of the function for M texts or exchanges."""
        foreign = self.foreign
        returned = settled([self.function(items)])[0] if foreign is None else foreign(items)
        return list(returned) if isinstance(returned, Iterator) else returned

    def _checked(
        self, returned: object, items: Mapping[Hashable, Any]
    ) -> dict[Hashable, float | None]:
        """The numbers that the function returned for M texts or exchanges, by key."""
        texts, may_skip = [_text(item) for item in items.values()], self.foreign is not None
        numbers = checked_numbers(self.name, returned, texts, may_skip=may_skip)
        return dict(zip(items, numbers, strict=True))

    def _failure(self, items: Mapping[Hashable, Any], error: Exception) -> LikelihoodError:
        """The error for a function that failed on M texts, with a text that fails alone.

        Rewards of texts that do not fail alone are remembered: the next call goes on from there.
        """
        for key, item in items.items():
            try:
                self._remember(self._checked(self._call(self._copies([item])), {key: item}))
            except Exception as again:
                reason = f"text {quoted(_text(item))}: {type(again).__name__}: {again}"
                return LikelihoodError(f"reward {self.name!r} failed on the {reason}")
        first, go_on = quoted(_text(next(iter(items.values())))), ""
        if len(items) <= self.cache_size:
            go_on = " The rewards alone are remembered: call again to go on"
        return LikelihoodError(
            f"reward {self.name!r} failed on {len(items)} texts together, on none of them alone "
            f"(the first is {first}): {type(error).__name__}: {error}. Is the batch too large?"
            + go_on
        )


def _tensor(values: Sequence[float | None]) -> Tensor:
    """Rewards as a tensor, NaN for None."""
    numbers = [math.nan if value is None else value for value in values]
    return torch.tensor(numbers, dtype=torch.float64)


def _text(item: str | Chat | Exchange) -> str:
    """Text of a text, or of the response in a chat or an exchange, for errors."""
    if isinstance(item, Exchange):
        return item.text
    return item if isinstance(item, str) else item[-1]["content"]

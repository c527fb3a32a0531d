"""Exchange with functions of the user: the exchanges they see, the values they return, their loop.

Asynchronous functions run in an event loop in a thread of its own, since the caller may be inside a
running loop, as a notebook is. One loop serves all calls, since clients of web services hold on to
the loop of their first call.
"""

import asyncio
import math
import os
import pickle
import threading
from collections.abc import Awaitable, Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from model.common.texts import quoted
from model.likelihood import LikelihoodError
from model.networks.text_network import Chat
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts

_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
"""The loop of this process, by process id: a forked child has no threads of its parent."""
_STARTING = threading.Lock()
THINK = "<think>"
"""The tag with which a chat template may begin an answer."""


class Exchange(NamedTuple):
    """A prompt with one response."""

    name: str  # name of the prompt, see `Prompts.names`
    text: str  # the response as a text, without its end
    ids: tuple[int, ...]  # token ids of the response, its end included
    prompt: str | Chat  # messages of a chat, otherwise a text
    completion: str | Chat  # message of the assistant in a list for a chat, otherwise a text
    columns: Mapping[str, Any]  # data of the prompt, by name


def exchanges(language_model: LanguageModel, prompts: Prompts, response: Tensor) -> list[Exchange]:
    """The exchanges of responses `[K, N, T]` with N prompts, a list of K times N."""
    names = prompts.names()
    columns = [{key: of[n] for key, of in prompts.columns.items()} for n in range(len(prompts))]
    begun = [opened(text) for text in prompts.texts]
    texts = language_model.decode(response)
    is_token = language_model.space.is_token(response).cpu()
    listed = []
    for k, rows in enumerate(response.cpu()):
        for n, row in enumerate(rows):
            ids, text, chat = tuple(row[is_token[k, n]].tolist()), texts[k][n], prompts.messages[n]
            prompt: str | Chat = prompts.texts[n]
            completion: str | Chat = text
            if chat is not None:
                prompt, completion = answered(chat, begun[n], text)
            listed.append(Exchange(names[n], text, ids, prompt, completion, columns[n]))
    return listed


def opened(prompt: str) -> str:
    """The tag `<think>` at the end of the text of a prompt, which opens an answer; else nothing."""
    end = len(prompt.rstrip())
    return prompt[end - len(THINK) :] if prompt.endswith(THINK, 0, end) else ""


def own_copies(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Exchanges whose lists and dicts are their own, for a function that may change them.

    The data of a prompt are pickled once and loaded for each response, in a tenth of the time of
    `deepcopy`: 30 us for a list of 200 dicts. Texts and numbers are not copied.
    """
    pickled: dict[str, bytes] = {}
    copies = []
    for each in exchanges:
        if each.name not in pickled:
            data = each.columns.items()
            lists = {key: value for key, value in data if isinstance(value, Mapping | list | tuple)}
            pickled[each.name] = pickle.dumps((each.prompt, lists))
        prompt, lists = pickle.loads(pickled[each.name])
        completion, columns = each.completion, {**each.columns, **lists}
        if not isinstance(completion, str):
            completion = [dict(message) for message in completion]
        copies.append(each._replace(prompt=prompt, completion=completion, columns=columns))
    return copies


def answered(chat: Sequence[Mapping[str, Any]], begun: str, text: str) -> tuple[Chat, Chat]:
    """The messages before an answer, and the assistant's message with the answer.

    The chat template has begun the message. If the last message of the chat is the assistant's,
    the answer continues that message.
    """
    messages = [dict(message) for message in chat]
    if messages[-1]["role"] == "assistant":
        begun = messages.pop()["content"]
    return messages, [{"role": "assistant", "content": f"{begun}{text}"}]


def checked_numbers(
    name: str, returned: object, texts: Sequence[str], *, may_skip: bool
) -> list[float | None]:
    """The numbers that a reward function returned for M texts.

    Args:
        name: name of the reward, for errors.
        returned: result of the function: a list, a tensor or an array of M numbers.
        texts: the M texts.
        may_skip: allow None, which says that the reward does not apply to the prompt.

    Raises:
        LikelihoodError: for another number of values, and for a value that is no reward.
    """
    values = listed(returned)
    if values is None or len(values) != len(texts):
        shown = f"{quoted(returned)} ({type(returned).__name__})"
        if isinstance(returned, Tensor | np.ndarray):
            shown = f"a {type(returned).__name__} of shape {tuple(returned.shape)}"
        raise LikelihoodError(
            f"the reward function {name!r} returned "
            f"{shown if values is None else f'{len(values)} numbers'} for {len(texts)} texts, "
            "expected a list of as many numbers"
        )
    numbers = [None if value is None and may_skip else as_number(value) for value in values]
    for text, value, number in zip(texts, values, numbers, strict=True):
        if number is not None and (math.isnan(number) or number == math.inf):
            got = f"reward {name!r} returned {quoted(value)} for the text {quoted(text)}"
            expected = "a finite number, or -inf for an impossible text"
            fix = ". A function that may return None has the prompt among its parameters"
            raise LikelihoodError(f"{got}, expected {expected}{fix if value is None else ''}")
    return numbers


def listed(returned: object) -> list[object] | None:
    """The values that a reward function returned, as a list; None for one value or a table."""
    if getattr(returned, "ndim", 1) != 1 or isinstance(returned, str | bytes | Mapping | Set):
        return None
    if isinstance(returned, Tensor):
        return returned.tolist()
    return list(returned) if isinstance(returned, Iterable) else None


def as_number(value: object) -> float:
    """A number or truth value of Python, numpy or torch as a float; NaN for anything else."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    try:
        return float(value) if isinstance(value, Real | np.bool_) else math.nan
    except OverflowError:
        return math.nan


def settled(values: Sequence[Any]) -> list[Any]:
    """The values, with the results of those that are awaitable, which run concurrently."""
    if not any(isinstance(value, Awaitable) for value in values):
        return list(values)
    future = asyncio.run_coroutine_threadsafe(_gathered(values), _loop())
    try:
        return future.result()
    except BaseException:  # an interrupt of the caller ends the calls too
        future.cancel()
        raise


async def _gathered(values: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*map(_settled, values)))


async def _settled(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


def _loop() -> asyncio.AbstractEventLoop:
    """The running loop of this process, started on the first call."""
    with _STARTING:
        if os.getpid() not in _LOOPS:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
            _LOOPS[os.getpid()] = loop
        return _LOOPS[os.getpid()]

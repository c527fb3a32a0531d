"""Preferences between chats as texts: the texts that a reward sees of prompt and response.

prompt    the chat by the tokenizer's template, up to where the assistant's message begins
response  the rest of the chat by the template, without the end of the assistant's message

A prompt that both responses hold is their common start, in whole words or messages.
"""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from model.common.texts import quoted
from model.data.record import DataError
from model.prior.chat import Messages, text_of

WHOLE = {"add_generation_prompt": False, "continue_final_message": False}
"""Options of a template that writes a chat to the end of its last message."""
TextOrChat = TypeVar("TextOrChat", str, Messages)
MARK = "ANSWER"  # content of a message whose end is looked up in the text by the template


def with_prompt(
    prompt: TextOrChat | None, chosen: TextOrChat, rejected: TextOrChat, place: str
) -> tuple[TextOrChat, TextOrChat, TextOrChat]:
    """The prompt and two responses. Without a prompt, both responses hold the prompt.

    Raises:
        DataError: if the responses have no common start.
    """
    if prompt is not None:
        return prompt, chosen, rejected
    start = common_start(chosen, rejected)
    if not start:
        state, fix = "missing", "write an empty prompt if both hold it"
        if not isinstance(chosen, str):
            state, fix = "missing or a text", "write the prompts as messages"
        raise DataError(
            f"{place}: column 'prompt' is {state}, and chosen and rejected have no common start: "
            f"rename the column that has the prompts, or {fix}"
        )
    return start, chosen[len(start) :], rejected[len(start) :]


def common_start(chosen: TextOrChat, rejected: TextOrChat) -> TextOrChat:
    """The common start of two texts in whole words, or of two chats in whole messages.

    At least one word or message of each is left as response.
    """
    pairs = zip(chosen, rejected, strict=False)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    length = min(length, len(chosen) - 1, len(rejected) - 1)
    while isinstance(chosen, str) and length > 0 and not chosen[length].isspace():
        length -= 1
    return chosen[: max(length, 0)]


def chat_texts(
    tokenizer: PreTrainedTokenizerBase | None,
    chats: tuple[Messages, ...],
    place: str,
    options: Mapping[str, Any],
) -> tuple[str, ...]:
    """Texts of a prompt and of the responses to the prompt, all of them chats.

    Args:
        tokenizer: tokenizer with a chat template; None if the caller has none.
        chats: messages of the prompt, and of each response.
        place: place of the preference in errors.
        options: options of the template.

    Raises:
        DataError: without a tokenizer or its template, or if the template writes the prompt
            otherwise where an answer follows.
    """
    if tokenizer is None:
        fix = "pass the tokenizer of the language model, whose chat template writes them as texts"
        raise DataError(f"{place}: the responses are chats: {fix}")
    prompt, *responses = chats
    try:
        start = text_of(tokenizer, prompt, place, options)
        whole = {**options, **WHOLE}
        answers = [_answer(tokenizer, start, prompt + each, place, whole) for each in responses]
    except ValueError as error:
        raise DataError(f"{error}") from error
    return start, *answers


def _answer(
    tokenizer: PreTrainedTokenizerBase,
    start: str,
    chat: Messages,
    place: str,
    options: Mapping[str, Any],
) -> str:
    """The text that the template writes behind the prompt, without the end of the last message."""
    whole = text_of(tokenizer, chat, place, options)
    marked = text_of(tokenizer, (*chat[:-1], {**chat[-1], "content": MARK}), place, options)
    if not whole.startswith(start):
        raise ValueError(
            f"{place}: the chat template writes the prompt otherwise where an answer follows, "
            f"{quoted(whole)}, expected the start {quoted(start)}: pass texts"
        )
    return whole[len(start) :].removesuffix(marked.rpartition(MARK)[2])

"""Chat prompts: messages of roles and contents, written as one text by the tokenizer's template."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from typing import Any

from transformers import PreTrainedTokenizerBase

from model.common.texts import check_plain, check_unicode, hint, listed_texts, quoted

Messages = tuple[dict[str, Any], ...]
"""One chat: messages, each with a `role`, and with a `content` or `tool_calls`."""

EXAMPLE = "[{'role': 'user', 'content': 'Hello'}]"
SHAREGPT = (
    ": rename `from` and `value` so, and the roles `human` to `user` and `gpt` to `assistant`"
)
VARIABLES = {"tools", "documents"}
"""Parameters of `apply_chat_template` that it passes on to the template."""
TOOLS, OPTIONS = "tools", "chat_template_kwargs"
"""Columns of TRL's formats that the template of a chat reads."""


def listed_prompts(prompts: object, system: str | None = None) -> list[str | Messages]:
    """N prompts, each a text or the messages of a chat; with `system`, all of them chats.

    Args:
        prompts: iterable of texts and of lists of messages.
        system: content of a first message of the role `system`. A text becomes the user's message
            behind that message.

    Raises:
        TypeError: with the index, if a prompt is neither a text nor a list of messages.
        ValueError: if there is no prompt, or a chat has a message of the system and gets another.
    """
    is_one = isinstance(prompts, str | bytes | Mapping | Set) or not getattr(prompts, "ndim", 1)
    if is_one or not isinstance(prompts, Iterable):
        return [*listed_texts("encode", prompts)]  # which refuses the value by its type
    items: list[Any] = list(prompts)
    if items and all(isinstance(item, Mapping) for item in items):
        fix = "a chat is one prompt, so put its messages into a list of their own: [[...]]"
        raise TypeError(f"encode got messages, expected a list of prompts: {fix}")
    if not any(isinstance(item, list | tuple) for item in items):
        items = listed_texts("encode", items)
    listed: list[str | Messages] = []
    for index, item in enumerate(items):
        prompt = str(item) if isinstance(item, str) else messages_of(item, index)
        if isinstance(prompt, str):
            check_unicode(prompt, f"text {index}")
        listed.append(prompt if system is None else _with_system(prompt, system, index))
    return listed


def messages_of(value: object, index: int) -> Messages:
    """The messages of the chat at `index`, checked."""
    messages = value if isinstance(value, list | tuple) else ()
    if not any(isinstance(message, Mapping) for message in messages):
        got = f"encode got {quoted(value)} ({type(value).__name__}) at index {index}"
        raise TypeError(f"{got}, expected a text, or messages such as {EXAMPLE}{hint(value)}")
    messages = without_null(messages)
    check_messages(messages, f"prompt {index}")
    return messages


def without_null(messages: Iterable[Any]) -> tuple[Any, ...]:
    """The messages without keys of value None at any depth, which tables fill in."""
    return tuple(_without_null(message) for message in messages)


def _without_null(value: Any) -> Any:
    """Plain data without keys of value None."""
    if isinstance(value, list | tuple):
        return [_without_null(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {key: _without_null(item) for key, item in value.items() if item is not None}


def check_messages(messages: Iterable[object], where: str) -> None:
    """Refuse messages without a role and a text, by number and place.

    A message with `tool_calls` may have no content.
    """
    for number, message in enumerate(messages):
        place = f"message {number} of {where}"
        if not isinstance(message, Mapping):
            raise TypeError(f"{place} is {quoted(message)}, expected one such as {EXAMPLE[1:-1]}")
        has_content = "content" in message or message.get("tool_calls")
        if not isinstance(message.get("role"), str) or not has_content:
            keys = sorted(map(str, message))
            fix = SHAREGPT if {"from", "value"} <= message.keys() else ""
            raise ValueError(f"{place} has the keys {keys}, expected a `role` and a `content`{fix}")
        for key, value in message.items():
            check_plain(value, f"{key!r} in {place}")
        if not isinstance(content := message.get("content", ""), str):
            got = f"{quoted(content)} ({type(content).__name__})"
            fix = "join the texts of a list of parts"
            raise ValueError(f"'content' in {place} is {got}, expected a text: {fix}")


def options_of(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Options of the template in the columns `TOOLS` and `OPTIONS` of a row, as data or as JSON.

    Raises:
        ValueError: with place and column, unless `tools` is a list of objects and
            `chat_template_kwargs` an object.
    """
    values: dict[str, Any] = {}
    for name, kind in ((TOOLS, list), (OPTIONS, dict)):
        value = row.get(name)
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)
        value = _without_null(value) or kind()
        objects = value if name == TOOLS else [value]
        if not isinstance(value, kind) or not all(isinstance(each, dict) for each in objects):
            expected = "a list of tools, each an object" if kind is list else "an object of options"
            raise ValueError(
                f"the column {name!r} of {place} is {quoted(value)}, expected {expected} of the "
                "chat template: rename the column, or leave it out"
            )
        values[name] = value
    tools = {TOOLS: values[TOOLS]} if values[TOOLS] else {}
    return tools | values[OPTIONS]


def text_of(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    place: str,
    options: Mapping[str, Any],
) -> str:
    """A prompt as a text: a chat by the tokenizer's template, a text as written.

    The text of a chat ends where the assistant goes on writing: a message of the assistant goes on,
    and after any other message a new one begins.

    Args:
        tokenizer: tokenizer of the language model.
        prompt: a text, or the messages of a chat.
        place: name of the prompt in errors.
        options: further options of `apply_chat_template`, also those of the template's own.

    Raises:
        ValueError: if there is no template, if the template refuses the messages, or if it never
            names an option, or the `tool_calls` of a message, or leaves out a message that the
            assistant answers.
    """
    if isinstance(prompt, str):
        return prompt
    if tokenizer.chat_template is None and "chat_template" not in options:
        raise ValueError(
            f"{place} is a chat, and the tokenizer has no chat template: write the prompt "
            "as a text, load a chat model, or set `tokenizer.chat_template`"
        )
    _check_template_reads(tokenizer, prompt, place, options)
    goes_on = prompt[-1]["role"] == "assistant"
    start = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}

    def written(messages: Iterable[Mapping[str, Any]]) -> str:
        copies = [dict(message) for message in messages]
        return tokenizer.apply_chat_template(copies, **{**start, **options, "tokenize": False})

    try:
        text = written(prompt)
    except Exception as error:  # a template is a program, and raises anything
        roles = [message["role"] for message in prompt]
        raise ValueError(
            f"the chat template of the tokenizer refuses {place}, with the roles {roles}: "
            f"{type(error).__name__}: {error}"
        ) from error
    text = listed_texts(f"the chat template, for {place},", [text])[0]
    _check_all_read(written, prompt, text, place)
    return text


def _check_all_read(
    written: Callable[[Iterable[Mapping[str, Any]]], str], prompt: Messages, text: str, place: str
) -> None:
    """Refuse a template that leaves out a message that the assistant answers.

    A mark in each of the messages shows the messages that are read. A message whose mark does not
    show is written alone with the mark: the text changes if the template reads the message.
    """
    marks = {n: f"Mark-{n}." for n, message in enumerate(prompt) if _is_answered(message)}
    marked = [
        {**message, "content": f"{message['content'].strip()} {marks[n]}"}
        if n in marks
        else message
        for n, message in enumerate(prompt)
    ]
    whole = ""
    with suppress(Exception):
        whole = written(marked)
    for number in [n for n, mark in marks.items() if mark in text or mark not in whole]:
        try:
            other = written((*prompt[:number], marked[number], *prompt[number + 1 :]))
        except Exception:  # a template that refuses a content reads the content
            continue
        if other == text:
            raise ValueError(
                f"the chat template of the tokenizer leaves out message {number} of {place}, of "
                f"the role {prompt[number]['role']!r}: leave it out, or write its text into "
                "another message"
            )


def _is_answered(message: Mapping[str, Any]) -> bool:
    """True for a text that the assistant has to read; its own thoughts before may be left out."""
    return message["role"] != "assistant" and bool(message.get("content", "").strip())


def _check_template_reads(
    tokenizer: PreTrainedTokenizerBase, prompt: Messages, place: str, options: Mapping[str, Any]
) -> None:
    """Refuse options and tool calls that the template would leave out without a word."""
    template = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
    known = {*inspect.signature(tokenizer.apply_chat_template).parameters} - VARIABLES
    given = {name: place for name in options if name not in known}
    writes_all = re.search(r"\bmessages?\s*\|\s*tojson\b", template)
    if any(message.get("tool_calls") for message in prompt) and not writes_all:
        given["tool_calls"] = place
    for name, where in given.items():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(
                f"the chat template of the tokenizer never reads {name!r}, which {where} got: "
                "leave it out, or load a model whose template writes it"
            )


def _with_system(prompt: str | Messages, system: str, index: int) -> Messages:
    """A prompt as a chat with a first message of the system."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    if messages[0]["role"] == "system":
        own = quoted(messages[0]["content"])
        raise ValueError(f"prompt {index} has a message of the system, {own}, and `system` is set")
    return ({"role": "system", "content": system}, *messages)

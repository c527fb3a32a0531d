"""Exchanges: a prompt with one response, as reward functions see both."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts

Chat = list[dict[str, Any]]
"""Messages, each with a `role` and a `content`."""


class Exchange(NamedTuple):
    """A prompt with one response.

    Attributes:
        name: name of the prompt, see `Prompts.names`.
        text: the response as a text, without its end.
        ids: token ids of the response, its end included.
        prompt: messages of a chat, otherwise a text.
        completion: message of the assistant in a list for a chat, otherwise a text.
        columns: data of the prompt, by name.
    """

    name: str
    text: str
    ids: tuple[int, ...]
    prompt: str | Chat
    completion: str | Chat
    columns: Mapping[str, Any]


def exchanges(language_model: LanguageModel, prompts: Prompts, response: Tensor) -> list[Exchange]:
    """The exchanges of responses `[K, N, T]` with N prompts, a list of K times N."""
    names = prompts.names()
    columns = [{key: of[n] for key, of in prompts.columns.items()} for n in range(len(prompts))]
    texts = language_model.decode(response)
    is_token = language_model.space.is_token(response).cpu()
    listed = []
    for k, rows in enumerate(response.cpu()):
        for n, row in enumerate(rows):
            ids, text, chat = tuple(row[is_token[k, n]].tolist()), texts[k][n], prompts.messages[n]
            prompt: str | Chat = prompts.texts[n]
            completion: str | Chat = text
            if chat is not None:
                prompt, completion = answered(chat, text)
            listed.append(Exchange(names[n], text, ids, prompt, completion, columns[n]))
    return listed


def answered(chat: Sequence[Mapping[str, Any]], text: str) -> tuple[Chat, Chat]:
    """The messages before an answer, and the assistant's message with the answer.

    If the last message of the chat is the assistant's, the answer continues the message.
    """
    messages, begun = [dict(message) for message in chat], ""
    if messages[-1]["role"] == "assistant":
        begun = messages.pop()["content"]
    return messages, [{"role": "assistant", "content": f"{begun}{text}"}]

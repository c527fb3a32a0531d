"""Values that are texts or chats: prompts, and responses of preferences."""

import json
from collections.abc import Mapping
from typing import Any

from model.common.texts import quoted
from model.data.record import DataError, Record, checked_value
from model.prior.chat import EXAMPLE, Messages, check_messages, without_null


def text_or_chat(record: Record, column: str) -> str | Messages:
    """The value in a column: a text, or the messages of a chat.

    Keys of a message whose value is null are dropped: tables fill them in where other messages have
    the key. In CSV, which has texts alone, a chat is written as a JSON array.

    Raises:
        DataError: with place and column.
    """
    value, where = checked_value(record, column), f"{record.place}: column {column!r}"
    if not record.has_types:
        value = _of_cell(value, where)
    if isinstance(value, str):
        return value
    is_list = isinstance(value, list | tuple) and value
    if not is_list or not all(isinstance(part, Mapping) for part in value):
        raise DataError(
            f"{where} is {quoted(value)} ({type(value).__name__}), expected a text, or messages "
            f"such as {EXAMPLE}"
        )
    messages = without_null(value)
    try:
        check_messages(messages, where)
    except (TypeError, ValueError) as error:
        raise DataError(f"{error}") from error
    return messages


def _of_cell(cell: str, where: str) -> Any:
    """A cell of CSV: its text, or the array if the text begins as an array of objects does."""
    if not cell:
        raise DataError(f"{where} is an empty cell: missing, or empty? Leave the row out")
    if not cell.lstrip().startswith("[{"):
        return cell
    try:
        return json.loads(cell)
    except ValueError as error:
        raise DataError(
            f"{where} begins as messages do and is not JSON ({error}): {quoted(cell)}. Write "
            "messages by `json.dumps`, not by `str`"
        ) from error

"""Preferences as data: one of two responses to a prompt was preferred. Read, checked, written.

{"prompt": "The film was", "chosen": " a joy.", "rejected": " a bore.", "tie": false}
"""

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import PreTrainedTokenizerBase

from model.common.checks import finite, instance
from model.common.checks import seed as checked_seed
from model.common.files import write_atomically
from model.common.texts import quoted
from model.data.reading import Source, read_records
from model.data.record import DataError, Record, check_columns, text_or_chat
from model.preferences.chats import chat_texts, with_prompt
from model.prior.chat import OPTIONS, Messages, options_of

if TYPE_CHECKING:
    from model.prior.language_model import LanguageModel
    from model.prior.prompts import Prompts

KEYS = ("prompt", "chosen", "rejected", "tie")  # columns of a file that `write_preferences` writes
OTHER_PROMPTS = ("question", "instruction", "query", "input")
"""Columns in which other data have the prompt."""


J = TypeVar("J", bound="Judged")


class PreferenceError(ValueError):
    """A record is not a preference, or a file has none."""


class Judged(ABC):
    """Responses to a prompt that were judged together: a `Preference` or a `Ranking`."""

    prompt: str
    chat: Messages | None
    place: str
    options: Mapping[str, Any]

    @property
    @abstractmethod
    def texts(self) -> tuple[str, ...]:
        """The whole texts of the responses."""

    @property
    @abstractmethod
    def is_tie(self) -> bool:
        """True if no response was preferred to another."""

    @abstractmethod
    def preferences(self) -> "list[Preference]":
        """All pairs of which one response is better. Those of a list are not independent."""

    @property
    def pair(self) -> frozenset[str]:
        """The whole texts, in no order."""
        return frozenset(self.texts)


@dataclass(frozen=True)
class Preference(Judged):
    """One comparison of two responses to a prompt.

    The whole texts are prompt + response as written: a response has its own leading space. The
    reward is inferred from the whole texts, and `TextReward` passes it the same texts.

    Attributes:
        prompt: text that both responses continue; may be empty.
        chosen: preferred response.
        rejected: other response.
        tie: True if neither was preferred; the names `chosen` and `rejected` then mean nothing.
        chat: messages of the prompt, if the prompt is a chat, for `LanguageModel.encode`; no part
            of a comparison by `==`.
        place: file and line of the preference in errors; no part of a comparison by `==`.
        options: options of the chat template, for `LanguageModel.encode`; no part of `==`.

    Raises:
        PreferenceError: if the texts are no texts, equal without a tie, or empty.
    """

    prompt: str
    chosen: str
    rejected: str
    tie: bool = False
    chat: Messages | None = field(default=None, compare=False)
    place: str = field(default="", compare=False, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        place = self.place or "a preference"
        for name in ("prompt", "chosen", "rejected"):
            if not isinstance(text := getattr(self, name), str):
                raise PreferenceError(f"{place}: {name!r} is {quoted(text)}, expected a text")
        if not isinstance(self.tie, bool):
            raise PreferenceError(f"{place}: 'tie' is {quoted(self.tie)}, expected True or False")
        if self.chosen == self.rejected and not self.tie:
            fault = f"chosen and rejected are the same text {self.chosen[:40]!r}"
            raise PreferenceError(f'{place}: {fault}: add "tie": true, or leave the pair out')
        for name, text in zip(("chosen", "rejected"), self.texts, strict=True):
            if not text:
                raise PreferenceError(f"{place}: 'prompt' and {name!r} are both empty")

    @property
    def texts(self) -> tuple[str, str]:
        """The whole texts, chosen and rejected."""
        return self.prompt + self.chosen, self.prompt + self.rejected

    @property
    def is_tie(self) -> bool:
        return self.tie

    def preferences(self) -> "list[Preference]":
        return [self]


def read_preferences(
    source: Source,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    prompt_column: str = "prompt",
) -> list[Preference]:
    """Preferences from a file, a folder, the hub, or records such as a `datasets.Dataset`.

    The columns are chosen, rejected, prompt and, if either may be preferred, tie. Chats become
    texts by the chat template of the tokenizer (`chats.py`), which reads TRL's columns `tools` and
    `chat_template_kwargs` too. Others are left out. Without a prompt the prompt is the common start
    of both responses, in whole words or messages; a row with a column such as `question`, whose
    text is not in the responses, is refused: name the column by `prompt_column`.

    Args:
        source: see `model/data/reading.py`.
        tokenizer: tokenizer of the language model that writes the responses, for chats.
        split: see `read_prompts`, as for config, revision and limit.
        prompt_column: column of the prompts; another name than `prompt` needs the column.

    Raises:
        PreferenceError: with file, line or row, and column.
    """
    where = {"split": split, "config": config, "revision": revision}
    try:
        records = read_records(source, limit=limit, **where)
        return [to_preference(record, tokenizer, prompt_column) for record in records]
    except DataError as error:
        raise PreferenceError(f"{error}") from error


def to_preference(
    record: Record,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prompt_column: str = "prompt",
) -> Preference:
    """A record as a `Preference`; a `DataError` or a `PreferenceError` otherwise."""
    named = () if prompt_column == "prompt" else (prompt_column,)
    check_columns(record, ("chosen", "rejected", *named))
    chosen, rejected = (text_or_chat(record, name) for name in ("chosen", "rejected"))
    prompt = None
    if named or record.values.get("prompt") is not None:
        prompt = text_or_chat(record, prompt_column)
    elif isinstance(chosen, str):
        _check_no_other_prompt(record, chosen)
    place, tie = record.place, _tie(record)
    chat, options = None, {}
    if isinstance(chosen, tuple) and isinstance(rejected, tuple):
        # beside chats a text is no prompt: the chats have the prompt as their first messages
        start = prompt if isinstance(prompt, tuple) else None
        chats = with_prompt(start, chosen, rejected, place)
        options = options_of(record.values, place)
        chat, (prompt, chosen, rejected) = chats[0], chat_texts(tokenizer, chats, place, options)
    elif isinstance(prompt, tuple) or isinstance(chosen, tuple) or isinstance(rejected, tuple):
        expected = "expected prompt and responses of one kind"
        raise DataError(f"{place}: texts and chats, {expected}")
    else:
        prompt, chosen, rejected = with_prompt(prompt, chosen, rejected, place)
    return Preference(prompt, chosen, rejected, tie, chat, place, options)


def _check_no_other_prompt(record: Record, chosen: str) -> None:
    """Refuse a record whose prompt is in another column, and not in the response."""
    for name in OTHER_PROMPTS:
        text = record.values.get(name)
        if isinstance(text, str) and text.strip() and text.strip() not in chosen:
            raise DataError(
                f"{record.place}: column 'prompt' is missing, and column {name!r} has "
                f"{quoted(text)}, which is not in the responses: if it is the prompt, set "
                f"prompt_column={name!r} (--prompt-column {name}), otherwise leave the column out"
            )


def _tie(record: Record) -> bool:
    """True for a tie; false without such a column."""
    tie = record.values.get("tie", False)
    if not record.has_types:
        tie = {"true": True, "false": False}.get(str(tie).lower(), tie)
    if not isinstance(tie, bool):
        raise DataError(f"{record.place}: 'tie' is {tie!r}, expected true or false")
    return tie


def write_preferences(path: str | Path, preferences: Iterable[Preference]) -> None:
    """Write JSON lines that `read_preferences` reads; prompts that are chats as texts."""
    records = [(p.prompt, p.chosen, p.rejected, p.tie) for p in preferences]
    lines = [json.dumps(dict(zip(KEYS, each, strict=True)), ensure_ascii=False) for each in records]
    write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


def split_preferences(
    preferences: Iterable[J], held_out: float = 0.2, seed: int = 0
) -> tuple[list[J], list[J]]:
    """Training and held-out preferences or rankings; each side has one that is no tie.

    At random, but equal sets of texts are on one side. `held_out` is the share of different sets.

    Raises:
        PreferenceError: if there is one pair alone, or a side has nothing but ties.
    """
    held_out, seed = finite("held_out", held_out, above=0, below=1), checked_seed("seed", seed)
    instance("preferences", preferences, Iterable)  # type: ignore[type-abstract]
    listed = list(preferences)
    for each in listed:
        instance("one of preferences", each, Judged)  # type: ignore[type-abstract]
    pairs = list(dict.fromkeys(preference.pair for preference in listed))
    if len(pairs) < 2:
        raise PreferenceError(f"there are {len(pairs)} different pairs, expected at least two")
    random.Random(seed).shuffle(pairs)
    out = set(pairs[: min(len(pairs) - 1, max(1, round(held_out * len(pairs))))])
    train, test = (
        [each for each in listed if (each.pair in out) == is_out] for is_out in (False, True)
    )
    for name, part in {"held-out preferences": test, "preferences to learn from": train}.items():
        if all(preference.is_tie for preference in part):
            raise PreferenceError(
                f"all {len(part)} {name} are ties, which say nothing: change the share held out, "
                "or give more"
            )
    return train, test


def names(preferences: Sequence[Judged]) -> list[str]:
    """Names of preferences in errors: file and line if known, else the number."""
    return [each.place or f"preference {number}" for number, each in enumerate(preferences)]


def encode_prompts(preferences: Sequence[Judged], language_model: "LanguageModel") -> "Prompts":
    """The prompt of each preference; a `ValueError` names a preference whose prompt is too long."""
    prompts = [each.chat or each.prompt for each in preferences]
    places = [f"{name}: the prompt" for name in names(preferences)]
    options = [each.options for each in preferences]
    columns = {OPTIONS: options} if any(options) else None
    return language_model.encode(prompts, columns, places=places)


def encode_distinct_prompts(
    preferences: Sequence[Judged], language_model: "LanguageModel", limit: int
) -> "Prompts":
    """The first different prompts of preferences, at most `limit`; see `encode_prompts`."""
    distinct: dict[str, Judged] = {}
    for each in preferences:
        distinct.setdefault(each.prompt, each)
    return encode_prompts(list(distinct.values())[:limit], language_model)

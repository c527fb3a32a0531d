"""Prompts with their columns from data: TRL's prompt-only format, with any further columns.

{"prompt": "2 + 2 =", "answer": "4"}
{"prompt": [{"role": "user", "content": "What is 2 + 2?"}], "answer": "4"}
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from model.common.checks import whole_number
from model.common.texts import listed_texts
from model.data.reading import Source, read_records
from model.data.record import DataError, Record, check_columns, checked_value, text_or_chat
from model.prior.chat import Messages
from model.prior.encoding import encoded_prompts
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts

CHOOSE = "; or name the columns to read, without this one"
"""End of the error of a column that nobody may need."""


@dataclass(frozen=True)
class PromptData:
    """N prompts and the columns beside them, as read.

        rows = [{"question": "the film was", "answer": "good"}]
        data = read_prompts(rows, prompt_column="question")  # a PromptData, also of a path
        prompts = data.encode(prior)
        prompts.columns["answer"]  # ("good",)

    Attributes:
        prompts: texts, or messages of chats.
        columns: values by name, one for each prompt.
        places: file and line of each prompt, for errors.
        prompt_column: name of the column of the prompts.
    """

    prompts: tuple[str | Messages, ...]
    columns: dict[str, tuple[Any, ...]]
    places: tuple[str, ...]
    prompt_column: str = "prompt"

    def __len__(self) -> int:
        return len(self.prompts)

    def encode(
        self, prior: LanguageModel, *, system: str | None = None, **template_options: Any
    ) -> Prompts:
        """The prompts by `LanguageModel.encode`, whose errors name file, line and column."""
        options = {"system": system, "places": self._places(), **template_options}
        return prior.encode(self.prompts, self.columns, **options)

    def without_long(
        self,
        prior: LanguageModel,
        max_tokens: int,
        *,
        system: str | None = None,
        **template_options: Any,
    ) -> Self:
        """The prompts of at most `max_tokens` tokens, with their columns.

        `len` says the number of prompts before and after. Other arguments are those of `encode`.

        Raises:
            DataError: if no prompt is left.
        """
        most = whole_number("max_tokens", max_tokens)
        reader = prior.network, prior.tokenizer
        places = self._places()
        settings = template_options, self.columns
        encoded = encoded_prompts(*reader, self.prompts, system, places, *settings)
        lengths = [len(row) for row in encoded.rows]
        rows = [row for row, length in enumerate(lengths) if length <= most]
        if not rows:
            least = f"the shortest has {min(lengths)}"
            raise DataError(f"all {len(self)} prompts have more than {most} tokens, {least}")
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            places=tuple(self.places[row] for row in rows),
            columns={
                name: tuple(values[row] for row in rows) for name, values in self.columns.items()
            },
        )

    def _places(self) -> list[str]:
        return [f"{place}: column {self.prompt_column!r}" for place in self.places]


def read_prompts(
    source: Source,
    *,
    prompt_column: str = "prompt",
    columns: Sequence[str] | None = None,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> PromptData:
    """Read prompts, texts or messages, and the columns beside them.

    A source is a file in JSON lines, JSON, CSV, TSV or Parquet, a folder of the `datasets` library,
    a name on the hub, or an iterable of dicts. Every row has the same columns. Values are texts,
    numbers, truth values, null, and lists and dicts of these. All values of CSV are texts; a prompt
    in CSV that is a JSON array of messages is a chat.

    Args:
        source: path, name on the hub, or rows; see `model/data/reading.py`.
        prompt_column: name of the column of the prompts.
        columns: names of the further columns to read; default all.
        split: split of a folder or of a data set on the hub; default the only one, or `train`.
        config: configuration of a folder or of a data set on the hub.
        revision: branch, tag or commit on the hub.
        limit: largest number of prompts, the first ones; default all.

    Raises:
        DataError: with file, line or row, and column.
    """
    names = None
    if columns is not None:
        chosen = listed_texts("columns", columns, at_least=0)
        names = list(dict.fromkeys([prompt_column, *chosen]))
    where = {"split": split, "config": config, "revision": revision}
    records = read_records(source, columns=names, limit=limit, **where)
    check_columns(records[0], [prompt_column], ": name the column of the prompts")
    if names is None:
        names = [prompt_column, *(name for name in records[0].values if name != prompt_column)]
    for record in records:
        _check_row(record, names, exactly=columns is None)
    prompts = tuple(text_or_chat(record, prompt_column) for record in records)
    values = {
        name: tuple(checked_value(record, name, CHOOSE) for record in records)
        for name in names
        if name != prompt_column
    }
    for name, column in values.items():
        _warn_of_kinds(name, column, records)
    return PromptData(prompts, values, tuple(record.place for record in records), prompt_column)


def _warn_of_kinds(name: str, values: Sequence[Any], records: Sequence[Record]) -> None:
    """Warn of a column whose values change their type, of which a reward may expect one."""
    kinds = ["number" if type(value) in (int, float) else type(value).__name__ for value in values]
    first = next((kind for kind in kinds if kind != "NoneType"), "NoneType")
    for record, kind in zip(records, kinds, strict=True):
        if kind not in (first, "NoneType"):
            fault = f"column {name!r} is a {kind}, and a {first} in rows before"
            warnings.warn(f"{record.place}: {fault}: write one type{CHOOSE}", stacklevel=3)
            return


def _check_row(record: Record, names: Sequence[str], exactly: bool) -> None:
    """Refuse a row that lacks a column, or has one more than the first row."""
    check_columns(record, names, ": write null where a row has no value")
    more = [name for name in record.values if name not in names] if exactly else []
    if more:
        raise DataError(
            f"{record.place}: column {more[0]!r} is not in the first row, expected the columns "
            f"{', '.join(names)}: write null there{CHOOSE}"
        )

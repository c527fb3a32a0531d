"""Rankings as data: responses to one prompt by a score each. Read and checked.

{"prompt": "The film was", "responses": [" a joy.", " a bore.", " fine."], "scores": [9, 2, 6]}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from model.common.checks import finite, whole_number
from model.common.texts import quoted
from model.data.reading import Source, read_records
from model.data.record import DataError, Record, check_columns, checked_value, text_or_chat
from model.preferences.chats import chat_texts
from model.preferences.data import Judged, Preference, PreferenceError, to_preference
from model.prior.chat import Messages, options_of

LAYOUTS = {
    "responses": ("scores", "ranks"),
    "completions.response": ("completions.overall_score",),  # UltraFeedback
    "answers.answer": ("answers.rank",),  # Nectar
    "generations": ("ratings",),  # distilabel
    "all_generated_responses": ("all_rm_scores",),  # Snorkel, SimPO
}
"""Columns of scores by the column of responses. A name after a dot is of the objects of a list.

Of scores and ratings the largest is the best response, of ranks the smallest."""

ONE_KIND = "a file has pairs or rankings, by its first record"


@dataclass(frozen=True)
class Ranking(Judged):
    """Responses to a prompt by a score each; a `Preference` is the case of two.

    Attributes:
        prompt, chat, place, options: see `Preference`.
        responses: at least two.
        scores: score of each response, the largest for the best one. The order of responses of one
            score was not recorded.

    Raises:
        PreferenceError: if responses are no texts or scores no finite numbers, if a text has two
            scores, or if a text is empty.
    """

    prompt: str
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    chat: Messages | None = field(default=None, compare=False)
    place: str = field(default="", compare=False, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        place, sizes = self.place or "a ranking", (len(self.responses), len(self.scores))
        if sizes[0] != sizes[1] or sizes[0] < 2:
            fault = f"{sizes[0]} responses and {sizes[1]} scores"
            raise PreferenceError(f"{place}: {fault}, expected one each, and at least two")
        for text in (self.prompt, *self.responses):
            if not isinstance(text, str):
                raise PreferenceError(f"{place}: got {quoted(text)}, expected a text")
        known: dict[str, float] = {}
        fix = "write it without quotes, or null if there is none"
        for text, score in zip(self.responses, self.scores, strict=True):
            try:
                finite(f"{place}: a score", score, why=fix)
            except ValueError as error:
                raise PreferenceError(f"{error}") from error
            if known.setdefault(text, score) != score:
                fault = f"the response {quoted(text)} has the scores {known[text]:g} and {score:g}"
                raise PreferenceError(f"{place}: {fault}, expected one: leave one out")
            if not self.prompt + text:
                raise PreferenceError(f"{place}: the prompt and a response are both empty")

    @classmethod
    def of(cls, pair: Preference) -> Self:
        """The list of two of a preference; a tie is an order that was not recorded."""
        scores = (0.0, 0.0) if pair.tie else (1.0, 0.0)
        responses = (pair.chosen, pair.rejected)
        return cls(pair.prompt, responses, scores, pair.chat, pair.place, pair.options)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.prompt + response for response in self.responses)

    @property
    def is_tie(self) -> bool:
        return len(set(self.scores)) == 1

    def top(self, count: int) -> Self:
        """The same list, of which only the best `count` are ranked; with 1, the best alone.

        All responses of one score with the last of these are ranked above the others.
        """
        last = sorted(self.scores, reverse=True)[: whole_number("count", count)][-1]
        lower = max((score for score in self.scores if score < last), default=last)
        return replace(self, scores=tuple(max(score, lower) for score in self.scores))

    def preferences(self) -> list[Preference]:
        order = sorted(zip(self.scores, self.responses, strict=True), reverse=True)
        place = (self.chat, self.place, self.options)
        return [
            Preference(self.prompt, better, worse, False, *place)
            for (high, better), (low, worse) in combinations(order, 2)
            if high > low
        ]


def read_judged(
    source: Source,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    prompt_column: str = "prompt",
    **where: Any,
) -> list[Judged]:
    """Rankings, or preferences, by the columns of the first record; see `read_preferences`.

    Columns `chosen` and `rejected` are preferences, whatever else a record has: leave them out to
    read the lists beside them. A ranking has the prompt and a pair of `LAYOUTS`. A score or rank of
    null is of a response that is worse than all others, in an order that was not recorded.

    Raises:
        PreferenceError: with file, line or row, and column.
    """
    try:
        records = read_records(source, **where)
        if (names := _layout(records[0])) is None:
            for record in records:
                if _layout(record) is not None:
                    raise DataError(f"{record.place}: got a ranking, expected a pair: {ONE_KIND}")
            return [to_preference(record, tokenizer, prompt_column) for record in records]
        return [to_ranking(record, names, tokenizer, prompt_column) for record in records]
    except DataError as error:
        raise PreferenceError(f"{error}") from error


def to_ranking(
    record: Record,
    names: tuple[str, str],
    tokenizer: PreTrainedTokenizerBase | None,
    prompt_column: str,
) -> Ranking:
    """A record as a `Ranking`, by the columns of responses and scores; a `DataError` otherwise."""
    fix = ": --prompt-column names the column of the prompts" if prompt_column == "prompt" else ""
    check_columns(record, (prompt_column,), fix)
    check_columns(record, (name.partition(".")[0] for name in names), f": {ONE_KIND}")
    place, prompt = record.place, text_or_chat(record, prompt_column)
    parts = {f"{names[0]}, item {i}": each for i, each in enumerate(_listed(record, names[0]))}
    items = record._replace(values=parts)
    responses = [text_or_chat(items, name) for name in parts]
    chat, options, texts = None, {}, (prompt, *responses)
    if all(isinstance(each, tuple) for each in texts):
        chat, options = prompt, options_of(record.values, place)
        texts = chat_texts(tokenizer, texts, place, options)  # type: ignore[arg-type]
    elif not all(isinstance(each, str) for each in texts):
        expected = "expected prompt and responses of one kind"
        raise DataError(f"{place}: texts and chats, {expected}")
    sign = -1.0 if "rank" in names[1] else 1.0
    scores = [sign * each if _is_number(each) else each for each in _listed(record, names[1])]
    last = min(filter(_is_number, scores), default=0.0) - 1
    scores = [last if each is None else each for each in scores]
    return Ranking(texts[0], texts[1:], tuple(scores), chat, place, options)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _layout(record: Record) -> tuple[str, str] | None:
    """The columns of responses and scores in a record; None without, or beside a preference.

    A `DataError` for responses alone.
    """
    if not isinstance(record.values, Mapping) or {"chosen", "rejected"} <= record.values.keys():
        return None
    for responses, columns in LAYOUTS.items():
        for scores in columns:
            outer = {name.partition(".")[0] for name in (responses, scores)}
            if outer <= record.values.keys():
                return responses, scores
    if not {"chosen", "rejected"} & record.values.keys():
        for alone in LAYOUTS.keys() & record.values.keys():
            scores = " or ".join(map(repr, LAYOUTS[alone]))
            raise DataError(f"{record.place}: column {scores} is missing beside {alone!r}")
    return None


def _listed(record: Record, path: str) -> list[Any]:
    """The list in a column, or a value of each object of a list; see `LAYOUTS`."""
    name, _, key = path.partition(".")
    value, where = checked_value(record, name), f"{record.place}: column {name!r}"
    if not isinstance(value, list | tuple):
        fix = "" if record.has_types else ": CSV has no lists, write JSON lines"
        raise DataError(f"{where} is {quoted(value)}, expected a list{fix}")
    if not key:
        return list(value)
    for number, each in enumerate(value):
        if not isinstance(each, Mapping) or key not in each:
            fault = f"item {number} is {quoted(each)}"
            raise DataError(f"{where}: {fault}, expected an object with {key!r}")
    return [each[key] for each in value]

"""Preferences as data: one of two responses to a prompt was preferred. Read, checked, written.

{"prompt": "The film was", "chosen": " a joy.", "rejected": " a bore.", "tie": false}
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.common.checks import instance
from model.common.files import write_atomically
from model.common.texts import SHOWN, TextFileError, check_unicode, hint, read_lines

KEYS = ("prompt", "chosen", "rejected")


class PreferenceError(ValueError):
    """A record is not a preference, or a file has none."""


@dataclass(frozen=True)
class Preference:
    """One comparison of two responses to a prompt.

    The whole texts are prompt + response as written: a response has its own leading space. The
    reward is inferred from the whole texts, and `TextReward` passes it the same texts.

    Attributes:
        prompt: text that both responses continue; may be empty.
        chosen: preferred response.
        rejected: other response.
        tie: True if neither was preferred; the names `chosen` and `rejected` then mean nothing.
    """

    prompt: str
    chosen: str
    rejected: str
    tie: bool = False

    @property
    def texts(self) -> tuple[str, str]:
        """The whole texts, chosen and rejected."""
        return self.prompt + self.chosen, self.prompt + self.rejected


def read_preferences(source: str | Path | Iterable[Mapping[str, Any]]) -> list[Preference]:
    """Preferences from a file in JSON lines, or from records, as of a `datasets.Dataset`.

    The keys are prompt, chosen, rejected and, if either may be preferred, tie. A `PreferenceError`
    names the line or the number of a record that is no preference.
    """
    if isinstance(source, Mapping):
        fix = "of a `DatasetDict` name a split, data['train']"
        raise PreferenceError(f"got one mapping, expected an iterable: {fix}")
    records: Iterable[tuple[str, Any]]
    if isinstance(source, str | Path):
        name, records = str(source), _lines(Path(source))
    else:
        instance("source", source, Iterable, why="of mappings, or a path")  # type: ignore[type-abstract]
        name = "the source"
        records = ((f"record {index}", record) for index, record in enumerate(source))
    preferences = [to_preference(record, where) for where, record in records]
    if not preferences:
        raise PreferenceError(f"{name} has no preferences, expected at least one")
    return preferences


def to_preference(record: Any, where: str) -> Preference:
    """A record as a `Preference`; a `PreferenceError` with the record's place otherwise."""
    keys = f"expected the keys {', '.join(KEYS)}"
    if not isinstance(record, Mapping):
        raise PreferenceError(f"{where}: got {type(record).__name__}, {keys}")
    if missing := [key for key in KEYS if key not in record]:
        fix = " If the prompt is part of both responses, write an empty one."
        raise PreferenceError(
            f"{where}: {missing[0]!r} is missing, {keys}; the record has: "
            f"{', '.join(map(str, record)) or 'none'}.{fix if missing == ['prompt'] else ''}"
        )
    for key in KEYS:
        if not isinstance(record[key], str):
            kind, fix = type(record[key]).__name__, hint(record[key])
            raise PreferenceError(f"{where}: {key!r} is a {kind}, expected a text{fix}")
        check_unicode(record[key], f"{where}: {key!r}", PreferenceError)
    tie = record.get("tie", False)
    if not isinstance(tie, bool):
        raise PreferenceError(f"{where}: 'tie' is {tie!r}, expected true or false")
    if record["chosen"] == record["rejected"] and not tie:
        fault = f"chosen and rejected are the same text {record['chosen'][:40]!r}"
        raise PreferenceError(f'{where}: {fault}: add "tie": true, or leave the pair out')
    preference = Preference(record["prompt"], record["chosen"], record["rejected"], tie)
    for name, text in zip(("chosen", "rejected"), preference.texts, strict=True):
        if not text:
            raise PreferenceError(f"{where}: 'prompt' and {name!r} are both empty")
    return preference


def write_preferences(path: str | Path, preferences: Iterable[Preference]) -> None:
    """Write JSON lines that `read_preferences` reads."""
    lines = [json.dumps(asdict(preference), ensure_ascii=False) for preference in preferences]
    write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


def split_preferences(
    preferences: Sequence[Preference], held_out: float = 0.2, seed: int = 0
) -> tuple[list[Preference], list[Preference]]:
    """Training and held-out preferences, at random; neither side is empty.

    Equal pairs of texts are on one side. `held_out` is the share of different pairs.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}, expected a share between 0 and 1")
    pairs = list(dict.fromkeys(frozenset(preference.texts) for preference in preferences))
    if len(pairs) < 2:
        raise PreferenceError(f"there are {len(pairs)} different pairs, expected at least two")
    random.Random(seed).shuffle(pairs)
    out = set(pairs[: min(len(pairs) - 1, max(1, round(held_out * len(pairs))))])
    train = [preference for preference in preferences if frozenset(preference.texts) not in out]
    return train, [preference for preference in preferences if frozenset(preference.texts) in out]


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The place and the record of each line; empty lines are skipped."""
    try:
        lines = read_lines(path)
    except TextFileError as error:
        raise PreferenceError(f"{error}. Preferences are read from JSON lines") from error
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            raise PreferenceError(
                f"{where}: a JSON array, expected JSON lines. Write the file anew with "
                "`write_preferences(path, read_preferences(json.load(file)))`"
            )
        try:
            yield where, json.loads(line)
        # no JSON, a number too long for Python, brackets too deep
        except (ValueError, RecursionError) as error:
            reason = str(error)[:SHOWN]
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} at column {error.colno}"
            raise PreferenceError(f"{where}: not JSON ({reason}), expected an object") from error

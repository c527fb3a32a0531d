"""Comparisons of two responses, and lists of responses, by their features, with outcomes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Self

import torch
from torch import Tensor

from model.common.checks import first_index, function, instance
from model.preferences.data import J, Judged, Preference, PreferenceError
from model.preferences.features import Features
from model.preferences.rankings import Ranking

FIRST, SECOND, TIE = 0, 1, 2  # outcomes of a comparison


class Observations(ABC):
    """Judged responses by their features; `outcome` is None if the outcome is to be drawn."""

    outcome: Tensor | None

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """A tensor of the type and on the device of the features."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of judgements."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """The judgements at `rows`, repeats allowed."""

    def given(self, outcome: Tensor | None) -> Self:
        """The same responses with another outcome."""
        return replace(self, outcome=outcome)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Comparisons(Observations):
    """C comparisons of two responses by their features, C at least 1.

    Attributes:
        first: `[C, D]`, features.
        second: `[C, D]`, features.
        outcome: `[C]`, `FIRST`, `SECOND` or `TIE`; None if the outcome is to be drawn.
    """

    first: Tensor
    second: Tensor
    outcome: Tensor | None = None

    def __post_init__(self) -> None:
        check_features("first", self.first, "[C, D]")
        check_features("second", self.second, "[C, D]")
        if self.first.shape != self.second.shape or self.first.dtype != self.second.dtype:
            raise ValueError(
                f"first has shape {tuple(self.first.shape)} and type {self.first.dtype}, second "
                f"{tuple(self.second.shape)} and {self.second.dtype}, expected the same"
            )
        if not len(self.first):
            raise ValueError("there are no comparisons, expected at least one")
        if self.outcome is not None:
            check_outcome(self.outcome, len(self.first))

    @classmethod
    def of(cls, preferences: Sequence[Judged], features: Features) -> Self:
        """The comparisons of some preferences, the chosen response first."""
        pairs = listed(preferences, Preference)
        function("features", features, why="of a list of texts")
        first, second = ([pair.texts[i] for pair in pairs] for i in (0, 1))
        outcome = torch.tensor([TIE if pair.tie else FIRST for pair in pairs])
        return cls(features(first), features(second), outcome)

    @property
    def like(self) -> Tensor:
        return self.first

    def __len__(self) -> int:
        return len(self.first)

    def select(self, rows: Tensor) -> Self:
        outcome = None if self.outcome is None else self.outcome[rows]
        return replace(self, first=self.first[rows], second=self.second[rows], outcome=outcome)

    @property
    def difference(self) -> Tensor:
        """phi(first) - phi(second), which determines the outcome for a linear head."""
        return self.first - self.second


@dataclass(frozen=True, eq=False)
class Rankings(Observations):
    """C lists of up to R responses by their features, C at least 1.

    Attributes:
        features: `[M, D]`, features of M texts.
        response: `[C, R]`, number of the text of each response, at least two in a list; -1 at the
            places of a list with fewer than R.
        outcome: `[C, R]`, scores, -inf at the places without a response; None if the order is to
            be drawn.
    """

    features: Tensor
    response: Tensor
    outcome: Tensor | None = None

    def __post_init__(self) -> None:
        check_features("features", self.features, "[M, D]")
        response, most = instance("response", self.response, Tensor), len(self.features) - 1
        if response.dim() != 2 or response.dtype != torch.long or not len(response):
            got = f"shape {tuple(response.shape)} and type {response.dtype}"
            raise ValueError(f"response has {got}, expected numbers of texts [C, R] in int64")
        if (place := first_index((response < -1) | (response > most))) is not None:
            fault = f"response is {int(response[place])} at index {place}"
            raise ValueError(f"{fault}, expected the number of a text, 0 to {most}, or -1 for none")
        if (place := first_index((response >= 0).sum(1) < 2)) is not None:
            fault = f"list {place[0]} has fewer than two responses"
            raise ValueError(f"{fault}, expected at least two responses in each list")
        if self.outcome is not None:
            check_scores(self.outcome)
            if not torch.equal(self.outcome > -inf, response >= 0):
                raise ValueError("outcome is not -inf exactly at the places without a response")

    @classmethod
    def of(cls, preferences: Sequence[Judged], features: Features) -> Self:
        """The lists of some rankings."""
        rankings = listed(preferences, Ranking)
        texts = list(dict.fromkeys(text for ranking in rankings for text in ranking.texts))
        number = {text: place for place, text in enumerate(texts)}
        phi = function("features", features, why="of a list of texts")(texts)
        response = padded([[number[text] for text in each.texts] for each in rankings], -1)
        return cls(phi, response.long(), padded_scores(rankings))

    @property
    def like(self) -> Tensor:
        return self.features

    def __len__(self) -> int:
        return len(self.response)

    def select(self, rows: Tensor) -> Self:
        outcome = None if self.outcome is None else self.outcome[rows]
        return replace(self, response=self.response[rows], outcome=outcome)


def check_features(name: str, features: Tensor, shape: str) -> None:
    """Refuse anything but finite features, a row each, in float32 or float64."""
    dtype = instance(f"the features {name}", features, Tensor).dtype
    if features.dim() != 2 or dtype not in (torch.float32, torch.float64):
        got = f"shape {tuple(features.shape)} and type {dtype}"
        raise ValueError(
            f"{name} has {got}, expected features {shape} as floats in float32 or float64"
        )
    odd = (~features.isfinite().all(1)).nonzero()
    if len(odd):
        first = f"the first of them number {int(odd[0])}"
        raise ValueError(f"{name} is not finite in {len(odd)} of {len(features)} rows, {first}")


def check_outcome(outcome: Tensor, count: int) -> None:
    """Refuse anything but outcomes of `count` comparisons, integers `[count]`."""
    if outcome.shape != (count,):
        raise ValueError(f"outcome has shape {tuple(outcome.shape)}, expected [{count}]")
    codes = "FIRST, SECOND or TIE, which are 0, 1 and 2"
    if outcome.is_floating_point() or outcome.is_complex() or outcome.dtype == torch.bool:
        raise ValueError(f"outcome has type {outcome.dtype}, expected integers: {codes}")
    odd = ((outcome < FIRST) | (outcome > TIE)).nonzero()
    if len(odd):
        row = int(odd[0])
        raise ValueError(f"outcome is {int(outcome[row])} in comparison {row}, expected {codes}")


def listed(preferences: Sequence[Judged], kind: type[J]) -> list[J]:
    """Preferences, or rankings, all of one kind and at least one; else refused."""
    instance("preferences", preferences, Sequence)  # type: ignore[type-abstract]
    others = "`Ranking.of` of a pair" if kind is Ranking else "`Ranking.preferences` of a ranking"
    name, why = kind.__name__.lower(), f"`read_judged` makes them of a file, {others}"
    objects = [instance(f"a {name}", each, kind, why=why) for each in preferences]
    if not objects:
        raise PreferenceError(f"there are no {name}s, expected at least one")
    return objects


def padded(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    """Rows of numbers as `[C, R]`, float64, with a value at the end of shorter rows."""
    size = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (size - len(row))] for row in rows]).double()


def padded_scores(rankings: Sequence[Ranking]) -> Tensor:
    """Scores of rankings, `[C, R]`; -inf at the places without a response."""
    return padded([ranking.scores for ranking in rankings], -inf)


def check_scores(scores: Tensor) -> None:
    """Refuse scores of lists `[C, R]` but finite ones, at least two a list, and -inf."""
    is_given = instance("outcome", scores, Tensor) > -inf
    if not bool(((scores == -inf) | scores.isfinite()).all()):
        raise ValueError("outcome has a score that is NaN or inf, expected finite scores, or -inf")
    if scores.dim() != 2 or not bool((is_given.sum(-1) > 1).all()):
        raise ValueError("outcome has a list with fewer than two scores, expected at least two")

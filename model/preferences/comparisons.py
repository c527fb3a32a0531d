"""Comparisons of two responses by their features, with outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model.common.checks import function, instance
from model.preferences.data import Preference
from model.preferences.features import Features

FIRST, SECOND, TIE = 0, 1, 2  # outcomes of a comparison


@dataclass(frozen=True, eq=False)
class Comparisons:
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
        sides = {"first": self.first, "second": self.second}
        for name, features in sides.items():
            dtype = instance(f"the features {name}", features, Tensor).dtype
            if features.dim() != 2 or dtype not in (torch.float32, torch.float64):
                got = f"shape {tuple(features.shape)} and type {features.dtype}"
                expected = "features [C, D] as floats in float32 or float64"
                raise ValueError(f"{name} has {got}, expected {expected}")
        if self.first.shape != self.second.shape or self.first.dtype != self.second.dtype:
            raise ValueError(
                f"first has shape {tuple(self.first.shape)} and type {self.first.dtype}, second "
                f"{tuple(self.second.shape)} and {self.second.dtype}, expected the same"
            )
        if not len(self.first):
            raise ValueError("there are no comparisons, expected at least one")
        for name, features in sides.items():
            odd = (~features.isfinite().all(1)).nonzero()
            if len(odd):
                counts = f"{len(odd)} of {len(features)} comparisons"
                first = f"the first of them number {int(odd[0])}"
                raise ValueError(f"{name} is not finite in {counts}, {first}")
        if self.outcome is not None:
            check_outcome(self.outcome, len(self.first))

    @classmethod
    def of(cls, preferences: Sequence[Preference], features: Features) -> Self:
        """The comparisons of some preferences, the chosen response first."""
        for preference in instance("preferences", preferences, Sequence):  # type: ignore[type-abstract]
            instance("a preference", preference, Preference, why="`read_preferences` makes them")
        function("features", features, why="of a list of texts")
        first, second = ([preference.texts[i] for preference in preferences] for i in (0, 1))
        outcome = torch.tensor([TIE if preference.tie else FIRST for preference in preferences])
        return cls(features(first), features(second), outcome)

    def select(self, rows: Tensor) -> Self:
        """The comparisons at `rows`, repeats allowed."""
        outcome = None if self.outcome is None else self.outcome[rows]
        return replace(self, first=self.first[rows], second=self.second[rows], outcome=outcome)

    @property
    def difference(self) -> Tensor:
        """phi(first) - phi(second), which determines the outcome for a linear head."""
        return self.first - self.second


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

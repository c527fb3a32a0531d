"""The reward as a latent variable: a Pyro program for comparisons (Bradley and Terry 1952, Davidson 1970).

    w ~ Normal(0, prior_scale^2),   r_w(x) = head(phi(x), w)
    P(first beats second) : P(second beats first) : P(tie)  =  exp(d/2) : exp(-d/2) : nu,    d = r_w(first) - r_w(second)

Without ties, nu = 0, the first is preferred with probability sigmoid(d). An annotator's slip turns a preference around with
probability epsilon, and leaves a tie a tie. All in logs, so that no difference is too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from model.common.checks import finite, function, instance, positive, probability
from model.preferences.data import Preference
from model.preferences.features import Features
from model.preferences.heads import Head, check_head

FIRST, SECOND, TIE = 0, 1, 2
"""Outcomes of a comparison."""


@dataclass(frozen=True, eq=False)
class Comparisons:
    """C comparisons of two responses by their features, C at least 1.

    Attributes:
        first: `[C, D]`.
        second: `[C, D]`.
        outcome: `[C]`, which was preferred, `FIRST`, `SECOND` or `TIE`; None if it is yet to be drawn.

    Raises:
        ValueError: if features or outcomes cannot be that.
    """

    first: Tensor
    second: Tensor
    outcome: Tensor | None = None

    def __post_init__(self) -> None:
        for name, features in (("first", self.first), ("second", self.second)):
            if features.dim() != 2 or features.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"{name} has shape {tuple(features.shape)} and type {features.dtype}, expected features [C, D] as floats "
                    "in float32 or float64: half precision would round differences of rewards away"
                )
        if self.first.shape != self.second.shape or self.first.dtype != self.second.dtype:
            raise ValueError(
                f"first has shape {tuple(self.first.shape)} and type {self.first.dtype}, second {tuple(self.second.shape)} and "
                f"{self.second.dtype}, expected the same: row c of both is comparison c"
            )
        if not len(self.first):
            raise ValueError("there are no comparisons, expected at least one")
        for name, features in (("first", self.first), ("second", self.second)):
            odd = ~features.isfinite().all(1)
            if bool(odd.any()):
                row = int(odd.nonzero()[0])
                raise ValueError(
                    f"{name} is not finite in {int(odd.sum())} of {len(odd)} comparisons, the first of them number {row}. "
                    "Look at what the features make of its text"
                )
        if self.outcome is not None:
            check_outcome(self.outcome, len(self.first))

    @classmethod
    def of(cls, preferences: Sequence[Preference], features: Features) -> Self:
        """The comparisons of some preferences; what was chosen comes first."""
        for preference in instance("preferences", preferences, Sequence):  # type: ignore[type-abstract]
            instance("a preference", preference, Preference, why="`read_preferences` makes them")
        function("features", features, why="of a list of texts")
        first, second = ([preference.texts[i] for preference in preferences] for i in (0, 1))
        outcome = torch.tensor([TIE if preference.tie else FIRST for preference in preferences])
        return cls(features(first), features(second), outcome)

    def select(self, rows: Tensor) -> Self:
        """The comparisons at `rows`, repeats allowed."""
        return replace(
            self,
            first=self.first[rows],
            second=self.second[rows],
            outcome=None if self.outcome is None else self.outcome[rows],
        )

    @property
    def difference(self) -> Tensor:
        """phi(first) - phi(second), all that a linear head needs."""
        return self.first - self.second


@dataclass(frozen=True)
class BradleyTerry:
    """The program. Called on comparisons, it samples `w` and observes their outcomes, or draws them where they are None.

    Attributes:
        head: r as a function of features and weights.
        prior_scale: standard deviation of every weight.
        flip: epsilon, from 0 to less than 1/2, known; or (a, b), those of a Beta prior under which it is a latent site `flip`.
            The posterior is blind to turning all weights and all labels around, so that such a prior should keep to the small.
        tie_strength: nu. At 1 two responses of equal reward tie as often as either wins.
        prior_mean: of the weights, `[P]`; default 0.
    """

    head: Head
    prior_scale: float = 1.0
    flip: float | tuple[float, float] = 0.0
    tie_strength: float = 0.0
    prior_mean: Tensor | None = None

    def __post_init__(self) -> None:
        check_head(self.head)
        positive("prior_scale", self.prior_scale)
        finite("tie_strength", self.tie_strength, at_least=0)
        if isinstance(self.flip, tuple):
            if len(self.flip) != 2 or not all(0 < parameter < math.inf for parameter in self.flip):
                raise ValueError(
                    f"flip is {self.flip}, expected two positive parameters of a Beta prior"
                )
        elif (
            isinstance(self.flip, bool)
            or not isinstance(self.flip, Real)
            or not 0 <= self.flip < 0.5
        ):
            raise ValueError(
                f"flip is {self.flip!r}, expected a number from 0 to less than 1/2, or a tuple of the two parameters of a Beta "
                "prior"
            )
        if self.prior_mean is not None:
            instance("prior_mean", self.prior_mean, Tensor)
        if self.prior_mean is not None and self.prior_mean.shape != (self.head.num_weights,):
            raise ValueError(
                f"prior_mean has shape {tuple(self.prior_mean.shape)}, expected [{self.head.num_weights}]: one for each weight"
            )

    def __call__(self, comparisons: Comparisons) -> Tensor:
        """Run the program. Returns the outcomes, `[..., C]`."""
        if (
            comparisons.outcome is not None
            and self.tie_strength == 0
            and bool((comparisons.outcome == TIE).any())
        ):
            raise ValueError(
                f"{int((comparisons.outcome == TIE).sum())} of {len(comparisons.outcome)} comparisons are ties, which have "
                "probability 0 at tie_strength 0: give it a positive value, or leave the ties out"
            )
        zeros = comparisons.first.new_zeros(self.head.num_weights)
        mean = zeros if self.prior_mean is None else self.prior_mean
        w = pyro.sample("w", dist.Normal(mean, self.prior_scale).expand(zeros.shape).to_event(1))
        flip = self.flip
        if isinstance(flip, tuple):
            flip = pyro.sample(
                "flip", dist.Beta(zeros.new_tensor(flip[0]), zeros.new_tensor(flip[1]))
            )
        weights = (
            w.squeeze(-2) if w.dim() > 1 else w
        )  # vectorised particles leave a place for the plate, [K, 1, P]
        difference = self.head(comparisons.first, weights) - self.head(
            comparisons.second, weights
        )  # [..., C]
        log_prob = log_outcome(difference, flip, self.tie_strength)
        with pyro.plate("comparisons", len(comparisons.first), dim=-1):
            return pyro.sample(
                "outcome", dist.Categorical(logits=log_prob), obs=comparisons.outcome
            )


def check_outcome(outcome: Tensor, count: int) -> None:
    """Refuse what cannot be the outcomes of so many comparisons.

    Raises:
        ValueError: for another shape than `[count]`, a type that is not integer, or a code that is no outcome.
    """
    if outcome.shape != (count,):
        raise ValueError(
            f"outcome has shape {tuple(outcome.shape)}, expected [{count}]: one for each comparison"
        )
    if outcome.is_floating_point() or outcome.is_complex() or outcome.dtype == torch.bool:
        raise ValueError(
            f"outcome has type {outcome.dtype}, expected integers: FIRST, SECOND or TIE, which are 0, 1 and 2"
        )
    odd = (outcome < FIRST) | (outcome > TIE)
    if bool(odd.any()):
        row = int(odd.nonzero()[0])
        raise ValueError(
            f"outcome is {int(outcome[row])} in comparison {row}, expected FIRST, SECOND or TIE, which are 0, 1 and 2"
        )


def log_outcome(
    difference: Tensor, flip: float | Tensor = 0.0, tie_strength: float = 0.0
) -> Tensor:
    """log P of each outcome, `[..., C, 3]` for differences of reward `[..., C]`; -inf for ties that cannot be.

    Args:
        difference: d, in units of reward.
        flip: epsilon, a probability, a number or a tensor that broadcasts with `difference`; a tensor is not checked.
        tie_strength: nu.

    Raises:
        ValueError: if `flip` is no probability, or `tie_strength` negative or not finite.
    """
    if not isinstance(flip, Tensor):
        flip = probability("flip", flip)
    tie_strength = finite("tie_strength", tie_strength, at_least=0)
    half = difference / 2
    log_tie = torch.full_like(half, math.log(tie_strength) if tie_strength > 0 else -math.inf)
    log_prob = torch.stack([half, -half, log_tie], -1).log_softmax(-1)
    if isinstance(flip, float) and flip == 0:
        return log_prob
    flip = torch.as_tensor(flip, dtype=difference.dtype)[..., None]
    won = log_prob[
        ..., :TIE
    ]  # without the ties: where they are -inf, logaddexp has a gradient of NaN
    slipped = torch.logaddexp(won + torch.log1p(-flip), won.flip(-1) + flip.log())
    return torch.cat([slipped, log_prob[..., TIE:]], -1)


def simulate(
    first: Tensor, second: Tensor, *, flip: float = 0.0, tie_strength: float = 0.0
) -> Tensor:
    """Outcomes `[C]` of comparisons of responses whose rewards `[C]` are known, drawn by the law of the model.

    Raises:
        ValueError: if the rewards do not pair up or are not finite, or as `log_outcome` does.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"first has shape {tuple(first.shape)}, second {tuple(second.shape)}, expected the same: rewards [C] of either side"
        )
    if not bool((first.isfinite() & second.isfinite()).all()):
        raise ValueError(
            "a reward is NaN or infinite, expected finite ones: which of two is better has no law otherwise"
        )
    return dist.Categorical(
        logits=log_outcome(first.double() - second.double(), flip, tie_strength)
    ).sample()

"""The reward as a latent variable: a Pyro program for comparisons (Bradley and Terry 1952, Davidson 1970).

    w ~ Normal(0, prior_scale^2),   r_w(x) = head(phi(x), w)
    P(first beats second) : P(second beats first) : P(tie)  =  exp(d/2) : exp(-d/2) : nu,    d = r_w(first) - r_w(second)

Without ties, nu = 0, the first is preferred with probability sigmoid(d). An annotator's slip turns a preference around with
probability epsilon, and leaves a tie a tie. All in logs, so that no difference is too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from model.preferences.data import Preference
from model.preferences.features import Features
from model.preferences.heads import Head

FIRST, SECOND, TIE = 0, 1, 2
"""Outcomes of a comparison."""


class Comparisons(NamedTuple):
    """C comparisons of two responses by their features.

    Attributes:
        first: `[C, D]`.
        second: `[C, D]`.
        outcome: `[C]`, which was preferred, `FIRST`, `SECOND` or `TIE`; None if it is yet to be drawn.
    """

    first: Tensor
    second: Tensor
    outcome: Tensor | None = None

    @classmethod
    def of(cls, preferences: Sequence[Preference], features: Features) -> Self:
        """The comparisons of some preferences; what was chosen comes first."""
        first, second = ([preference.texts[i] for preference in preferences] for i in (0, 1))
        outcome = torch.tensor([TIE if preference.tie else FIRST for preference in preferences])
        return cls(features(first), features(second), outcome)

    def select(self, rows: Tensor) -> Self:
        """The comparisons at `rows`, repeats allowed."""
        return self._replace(
            first=self.first[rows], second=self.second[rows], outcome=None if self.outcome is None else self.outcome[rows]
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
        if not self.prior_scale > 0:
            raise ValueError(f"prior_scale is {self.prior_scale}, expected a positive number")
        if not self.tie_strength >= 0:
            raise ValueError(f"tie_strength is {self.tie_strength}, expected 0 or more")
        if not isinstance(self.flip, tuple) and not 0 <= self.flip < 0.5:
            raise ValueError(f"flip is {self.flip}, expected from 0 to less than 1/2, or the two parameters of a Beta prior")
        if isinstance(self.flip, tuple) and not min(self.flip) > 0:
            raise ValueError(f"flip is {self.flip}, expected two positive parameters of a Beta prior")

    def __call__(self, comparisons: Comparisons) -> Tensor:
        """Run the program. Returns the outcomes, `[..., C]`."""
        if comparisons.outcome is not None and self.tie_strength == 0 and bool((comparisons.outcome == TIE).any()):
            raise ValueError(
                f"{int((comparisons.outcome == TIE).sum())} of {len(comparisons.outcome)} comparisons are ties, which have "
                "probability 0 at tie_strength 0: give it a positive value, or leave the ties out"
            )
        zeros = comparisons.first.new_zeros(self.head.num_weights)
        mean = zeros if self.prior_mean is None else self.prior_mean
        w = pyro.sample("w", dist.Normal(mean, self.prior_scale).expand(zeros.shape).to_event(1))
        flip = self.flip
        if isinstance(flip, tuple):
            flip = pyro.sample("flip", dist.Beta(zeros.new_tensor(flip[0]), zeros.new_tensor(flip[1])))
        weights = w.squeeze(-2) if w.dim() > 1 else w  # vectorised particles leave a place for the plate, [K, 1, P]
        difference = self.head(comparisons.first, weights) - self.head(comparisons.second, weights)  # [..., C]
        log_prob = log_outcome(difference, flip, self.tie_strength)
        with pyro.plate("comparisons", len(comparisons.first), dim=-1):
            return pyro.sample("outcome", dist.Categorical(logits=log_prob), obs=comparisons.outcome)


def log_outcome(difference: Tensor, flip: float | Tensor = 0.0, tie_strength: float = 0.0) -> Tensor:
    """log P of each outcome, `[..., C, 3]` for differences of reward `[..., C]`; -inf for ties that cannot be.

    Args:
        difference: d, in units of reward.
        flip: epsilon, a number or a tensor that broadcasts with `difference`.
        tie_strength: nu.
    """
    half = difference / 2
    log_tie = torch.full_like(half, math.log(tie_strength) if tie_strength > 0 else -math.inf)
    log_prob = torch.stack([half, -half, log_tie], -1).log_softmax(-1)
    if isinstance(flip, float) and flip == 0:
        return log_prob
    flip = torch.as_tensor(flip, dtype=difference.dtype)[..., None]
    won = log_prob[..., :TIE]  # without the ties: where they are -inf, logaddexp has a gradient of NaN
    slipped = torch.logaddexp(won + torch.log1p(-flip), won.flip(-1) + flip.log())
    return torch.cat([slipped, log_prob[..., TIE:]], -1)


def simulate(first: Tensor, second: Tensor, *, flip: float = 0.0, tie_strength: float = 0.0) -> Tensor:
    """Outcomes `[C]` of comparisons of responses whose rewards `[C]` are known, drawn by the law of the model."""
    return dist.Categorical(logits=log_outcome(first - second, flip, tie_strength)).sample()

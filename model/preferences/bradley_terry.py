"""The reward as a latent variable: a Pyro program for preferences (Bradley and Terry 1952).

    w ~ Normal(0, prior_scale^2),   r_w(x) = head(phi(x), w),   d = r_w(first) - r_w(second)
    P(first beats second) : P(second beats first) : P(tie)  =  exp(d/2) : exp(-d/2) : nu

Ties are those of Davidson 1970. Without ties, nu = 0, the first is preferred with probability
sigmoid(d). Label noise reverses a preference with probability epsilon, and leaves a tie a tie.
Probabilities are computed as logs, so that no difference is too large. Lists of responses have the
likelihood of Plackett and Luce, see `plackett_luce.py`, without label noise.
"""

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from model.common.checks import finite, instance, positive, probability
from model.preferences.comparisons import TIE, Comparisons, Rankings
from model.preferences.heads import Head, check_head
from model.preferences.plackett_luce import RankingDistribution


@dataclass(frozen=True)
class BradleyTerry:
    """The program: samples `w`, and observes the outcomes of comparisons, or draws missing ones.

    Observations are `Comparisons`, or `Rankings`, which have no flip and no `tie_strength`.

        model = BradleyTerry(LinearHead(features.num_features), prior_scale=2.0)
        weights = REWARD_INFERENCE["laplace"](model, Comparisons.of(preferences, features))
        reward = RewardPosterior(model.head, features, weights)

    Attributes:
        head: r as a function of features and weights.
        prior_scale: standard deviation of every weight.
        flip: epsilon, a number from 0 to less than 1/2; or (a, b), parameters of a Beta prior of
            the latent site `flip`. The posterior does not change if all weights and all labels are
            reversed, so that the Beta prior should keep to small values.
        tie_strength: nu. At 1 two responses of equal reward tie as often as either wins.
        prior_mean: mean of the weights, `[P]`; default 0.
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
        flip, num_weights = self.flip, self.head.num_weights
        if isinstance(flip, tuple):
            if len(flip) != 2 or not all(0 < parameter < math.inf for parameter in flip):
                raise ValueError(f"flip is {flip}, expected two positive parameters of the Beta")
        else:
            why = "or a tuple of the two parameters of a Beta prior"
            finite("flip", flip, at_least=0, below=0.5, why=why)
        if self.prior_mean is not None:
            shape = tuple(instance("prior_mean", self.prior_mean, Tensor).shape)
            if shape != (num_weights,):
                raise ValueError(f"prior_mean has shape {shape}, expected [{num_weights}]")

    @property
    def first_values(self) -> dict[str, float]:
        """First values of sites, which a search for the most probable weights leaves as they are.

        Weights of the reversed reward and a `flip` above 1/2 are a second, lower maximum, the end
        of a third to a half of the starts at a prior draw. Half the prior mean is below 1/2.
        """
        return {"flip": self.flip[0] / sum(self.flip) / 2} if isinstance(self.flip, tuple) else {}

    def __call__(self, comparisons: Comparisons | Rankings) -> Tensor:
        """Run the program. Returns the outcomes, `[..., C]`; of rankings the scores `[..., C, R]`.

        Refuses ties of comparisons at `tie_strength` 0.
        """
        outcome = comparisons.outcome
        if isinstance(comparisons, Rankings):
            if self.flip or self.tie_strength:
                raise ValueError("flip and tie_strength are of pairs, got rankings: leave them out")
        elif outcome is not None and self.tie_strength == 0 and bool((outcome == TIE).any()):
            raise ValueError(
                f"{int((outcome == TIE).sum())} of {len(outcome)} comparisons are ties, which have "
                "probability 0 at tie_strength 0: give it a positive value, or leave the ties out"
            )
        zeros = comparisons.like.new_zeros(self.head.num_weights)
        mean = zeros if self.prior_mean is None else self.prior_mean
        w = pyro.sample("w", dist.Normal(mean, self.prior_scale).expand(zeros.shape).to_event(1))
        flip = self.flip
        if isinstance(flip, tuple):
            a, b = (zeros.new_tensor(parameter) for parameter in flip)
            flip = pyro.sample("flip", dist.Beta(a, b))
        # vectorised particles leave a place for the plate, [K, 1, P]
        w = w.squeeze(-2) if w.dim() > 1 else w
        given: dist.TorchDistribution
        if isinstance(comparisons, Rankings):
            reward = self.head(comparisons.features, w)[..., comparisons.response]  # [..., C, R]
            given = RankingDistribution(reward.masked_fill(comparisons.response < 0, -math.inf))
        else:
            first, second = (self.head(f, w) for f in (comparisons.first, comparisons.second))
            log_prob = log_outcome(first - second, flip, self.tie_strength)  # [..., C, 3]
            given = dist.Categorical(logits=log_prob)
        with pyro.plate("comparisons", len(comparisons), dim=-1):
            return pyro.sample("outcome", given, obs=outcome)


def log_outcome(
    difference: Tensor, flip: float | Tensor = 0.0, tie_strength: float = 0.0
) -> Tensor:
    """log P of each outcome, `[..., C, 3]`, for d `[..., C]`; -inf for impossible ties.

    A tensor `flip`, epsilon, broadcasts with d.
    """
    if not isinstance(flip, Tensor):
        flip = probability("flip", flip)
    tie_strength = finite("tie_strength", tie_strength, at_least=0)
    half = difference / 2
    log_tie = torch.full_like(half, math.log(tie_strength) if tie_strength > 0 else -math.inf)
    log_prob = torch.stack([half, -half, log_tie], -1).log_softmax(-1)
    if isinstance(flip, float) and flip == 0:
        return log_prob
    flip = torch.as_tensor(flip, dtype=difference.dtype, device=difference.device)[..., None]
    # without the ties: where they are -inf, logaddexp has a gradient of NaN
    log_win = log_prob[..., :TIE]
    noisy = torch.logaddexp(log_win + torch.log1p(-flip), log_win.flip(-1) + flip.log())
    return torch.cat([noisy, log_prob[..., TIE:]], -1)


def simulate(
    first: Tensor, second: Tensor, *, flip: float = 0.0, tie_strength: float = 0.0
) -> Tensor:
    """Draw outcomes `[C]` of comparisons of responses whose rewards `[C]` are known."""
    if first.shape != second.shape:
        shapes = f"first has shape {tuple(first.shape)}, second {tuple(second.shape)}"
        raise ValueError(f"{shapes}, expected the same")
    if not bool((first.isfinite() & second.isfinite()).all()):
        raise ValueError("a reward is NaN or infinite, expected finite rewards")
    log_prob = log_outcome(first.double() - second.double(), flip, tie_strength)
    return dist.Categorical(logits=log_prob).sample()

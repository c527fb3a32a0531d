"""Rewards and constraints told apart, where evidence is both.

No reward is what a constraint rules out, -inf, nor what a penalty costs, nor the tilt that moves the means of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference import Estimate, PriorDraws, log_evidence_at
from model import AlignmentModel, Constraint, Prompts, Tilt


class Judged(NamedTuple):
    """What some law of responses comes to.

    Attributes:
        reward: E[r], of the rewards alone.
        forbidden: the share of responses that the constraints rule out.
        moments: E[phi] of the features of distributional constraints, by name.
    """

    reward: Estimate
    forbidden: float
    moments: Mapping[str, Estimate]


class Judge:
    """Scores responses by the rewards of a model, and by its constraints.

    Args:
        model: with rewards, and pieces of evidence that are a `Constraint` or a `Tilt`.
    """

    def __init__(self, model: AlignmentModel) -> None:
        pieces = model.evidence.items()
        rewards = {name: piece for name, piece in pieces if not isinstance(piece, Constraint | Tilt)}
        self.rewards = AlignmentModel(model.prior, rewards, model.beta)
        self.features = {name: phi for _, piece in pieces if isinstance(piece, Tilt) for name, phi in piece.features.items()}
        self.model = model

    def of_draws(self, prompts: Prompts, distribution: TorchDistribution, num_samples: int) -> Judged:
        """Of fresh draws."""
        response = distribution.sample(torch.Size([num_samples]))
        return Judged(
            Estimate.of_mean(self.reward(prompts, response)),
            self.forbidden(prompts, response).double().mean().item(),
            {name: Estimate.of_mean(values) for name, values in self.phi(prompts, response).items()},
        )

    def of_posterior(self, prompts: Prompts, draws: PriorDraws) -> Judged:
        """Of the posterior that draws of the prior stand for, by their weights. Consistent."""
        reward = self.reward(prompts, draws.response)
        bank = draws.bank
        return Judged(
            bank.mean(bank.log_evidence, reward),
            bank.mean(bank.log_evidence, self.forbidden(prompts, draws.response).double()).value,
            {name: bank.mean(bank.log_evidence, values) for name, values in self.phi(prompts, draws.response).items()},
        )

    def reward(self, prompts: Prompts, response: Tensor) -> Tensor:
        """r of responses `[..., N, T]`, `[..., N]`, whether they are forbidden or not."""
        return self.rewards.beta * log_evidence_at(self.rewards, prompts, response).double()

    def forbidden(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Whether the constraints rule responses `[..., N, T]` out, `[..., N]`."""
        return log_evidence_at(self.model, prompts, response).isneginf()

    def phi(self, prompts: Prompts, response: Tensor) -> dict[str, Tensor]:
        """The features of responses `[..., N, T]`, `[..., N]` each, by name."""
        return {name: feature(prompts, response).double() for name, feature in self.features.items()}

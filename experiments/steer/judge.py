"""Rewards and constraints told apart, where evidence is both.

No reward is what a constraint rules out, -inf, nor what a penalty costs, nor the tilt that moves the means of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference import Estimate, PriorSample
from model import AlignmentModel, HardConstraintSupport, Prompts, Tilt


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
        self.model = model
        self.features = {
            name: phi
            for piece in model.factors.values()
            if isinstance(piece, Tilt)
            for name, phi in piece.features.items()
        }

    def of_draws(
        self, prompts: Prompts, distribution: TorchDistribution, num_samples: int
    ) -> Judged:
        """Of fresh draws."""
        response = distribution.sample(torch.Size([num_samples]))
        reward, forbidden = self.scores(prompts, response)
        return Judged(
            Estimate.of_mean(reward),
            forbidden.double().mean().item(),
            {
                name: Estimate.of_mean(values)
                for name, values in self.phi(prompts, response).items()
            },
        )

    def of_posterior(self, prompts: Prompts, draws: PriorSample) -> Judged:
        """Of the posterior that draws of the prior stand for, by their weights. Consistent."""
        reward, forbidden = self.scores(prompts, draws.response)
        return Judged(
            draws.mean(draws.log_likelihood, reward),
            draws.mean(draws.log_likelihood, forbidden.double()).value,
            {
                name: draws.mean(draws.log_likelihood, values)
                for name, values in self.phi(prompts, draws.response).items()
            },
        )

    @torch.no_grad()
    def scores(self, prompts: Prompts, response: Tensor) -> tuple[Tensor, Tensor]:
        """r of responses `[..., N, T]`, of the rewards alone, and whether they are forbidden, `[..., N]` each."""
        reward = self.model.reward(prompts, response)
        with HardConstraintSupport():
            terms = [term.log_value for term in self.model.terms(prompts, response)]
        return reward, sum(terms, torch.zeros_like(reward)).isneginf()

    @torch.no_grad()
    def phi(self, prompts: Prompts, response: Tensor) -> dict[str, Tensor]:
        """The features of responses `[..., N, T]`, `[..., N]` each, by name."""
        return {
            name: feature(prompts, response).double() for name, feature in self.features.items()
        }

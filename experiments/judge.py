"""Reward and constraints told apart, where evidence is both: -inf is no reward, nor is what a penalty costs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference import Estimate, PriorDraws, log_evidence_at
from model import AlignmentModel, Constraint, Prompts


class Judged(NamedTuple):
    """What some law of responses comes to.

    Attributes:
        reward: E[r], of the rewards alone.
        forbidden: the share of responses that the constraints rule out.
    """

    reward: Estimate
    forbidden: float


class Judge:
    """Scores responses by the rewards of a model, and by its constraints.

    Args:
        model: with rewards, and pieces of evidence that are a `Constraint`.
    """

    def __init__(self, model: AlignmentModel) -> None:
        rewards = {name: evidence for name, evidence in model.evidence.items() if not isinstance(evidence, Constraint)}
        self.rewards = AlignmentModel(model.prior, rewards, beta=1.0)
        self.model = model

    def of_draws(self, prompts: Prompts, distribution: TorchDistribution, num_samples: int) -> Judged:
        """Of fresh draws."""
        response = distribution.sample(torch.Size([num_samples]))
        return Judged(Estimate.of_mean(self.reward(prompts, response)), self._forbidden(prompts, response).mean().item())

    def of_posterior(self, prompts: Prompts, draws: PriorDraws) -> Judged:
        """Of the posterior that draws of the prior stand for, by their weights. Consistent."""
        reward = self.reward(prompts, draws.response)
        forbidden, bank = self._forbidden(prompts, draws.response), draws.bank
        return Judged(bank.mean(bank.log_evidence, reward), bank.mean(bank.log_evidence, forbidden).value)

    def reward(self, prompts: Prompts, response: Tensor) -> Tensor:
        """r of responses `[..., N, T]`, `[..., N]`, whether they are forbidden or not."""
        return log_evidence_at(self.rewards, prompts, response).double()

    def _forbidden(self, prompts: Prompts, response: Tensor) -> Tensor:
        return log_evidence_at(self.model, prompts, response).isneginf().double()

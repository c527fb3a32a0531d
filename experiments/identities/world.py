"""World of 85 responses with different rewards, on which an identity is a sum; its gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

from experiments.shared.gradients import moved_guide
from guides import FineTuned
from inference import Enumeration, enumeration, random_state
from inference.targets.fixed_points import Problem
from model import AlignmentModel, LanguageModel, Prompts, TokenReward
from model.prior.grammar import untrained_prior

WORDS, TOKENS, PROMPT, BETA, DISTANCE = 5, 3, "w1", 0.25, 0.03
"""Sizes, prompt, reward per nat, and standard deviation of the noise on the guide's weights."""
CASES = 100
"""Number of random rewards and guides: one reward or guide can favour either of two numbers."""


@dataclass(frozen=True)
class World:
    """Prior, reward and guide, with numbers of all S responses, `[S]`: logs in nats, and r."""

    model: AlignmentModel
    prompts: Prompts
    guide: FineTuned
    truth: Enumeration
    log_prior: Tensor
    log_joint: Tensor
    log_posterior: Tensor
    log_guide: Tensor
    reward: Tensor

    @classmethod
    @cache
    def of(
        cls,
        levels: int | None = None,
        reward_seed: int = 1,
        guide_seed: int = 0,
        prior_seed: int = 0,
    ) -> Self:
        """The world with random rewards from 0 to 1, rounded to some levels if a number is given.

        The guide is away from prior and posterior.
        """
        prior = _prior(prior_seed)
        generator = torch.Generator().manual_seed(reward_seed)
        table = torch.rand([WORDS] * TOKENS, generator=generator, dtype=torch.float64)
        if levels is not None:
            table = (table * levels).floor() / (levels - 1)

        def reward(response: Tensor, _: Tensor) -> Tensor:
            return table[response.unbind(-1)]

        model = AlignmentModel(prior, TokenReward(reward, prior, upper_bound=1.0), BETA)
        prompts = prior.encode([PROMPT])
        truth = Enumeration(model, prompts)
        with random_state.isolated(guide_seed):
            guide = moved_guide(prior, DISTANCE)
        logs = truth.log_prior, truth.log_joint, truth.log_posterior, truth.log_guide(guide)
        columns = (*logs, truth.log_likelihood * BETA)
        return cls(model, prompts, guide, truth, *(each[:, 0] for each in columns))

    @property
    def log_z(self) -> float:
        """log Z, nats."""
        return self.truth.log_z.item()

    @property
    def problem(self) -> Problem:
        """Prior, reward and beta, as a trainer is given them."""
        return Problem.of(self.model, self.prompts)

    @property
    def length(self) -> Tensor:
        """Number of tokens of each response, its end included."""
        return self.problem.tokens("identities")[1][:, 0].double()

    @property
    def uniform(self) -> Tensor:
        """log of the distribution of all responses alike."""
        return torch.zeros_like(self.log_prior).log_softmax(0)

    def gap(self, log_guide: Tensor) -> float:
        """KL(q || p*), nats."""
        return kl(log_guide, self.log_posterior)

    def log_ratio(self, log_guide: Tensor) -> Tensor:
        """log q/p0, the implicit reward over beta of DPO."""
        return log_guide - self.log_prior

    def mean_reward(self, log_guide: Tensor) -> float:
        """E_q[r]."""
        return (log_guide.exp() @ self.reward).item()

    def posterior_at(self, beta: float | Tensor) -> Tensor:
        """log of the posterior of r at another beta, `[S]`, or of betas `[B, 1]`, `[B, S]`."""
        return (self.log_prior + self.reward / beta).log_softmax(-1)

    def nearest_posterior(self, log_guide: Tensor, betas: Tensor) -> tuple[float, float]:
        """The beta of least KL(q || posterior), and this KL, nats."""
        distances = [kl(log_guide, each) for each in self.posterior_at(betas[:, None])]
        least = min(distances)
        return betas[distances.index(least)].item(), least

    def draws(self, log_prob: Tensor, *shape: int) -> Tensor:
        """Numbers of responses drawn from a distribution, of a shape."""
        size = int(torch.tensor(shape).prod())
        return log_prob.exp().multinomial(size, replacement=True).view(shape)


@cache
def cases(num_cases: int = CASES, *, priors: bool = False) -> list[World]:
    """Worlds with a random reward and guide each, and each with a random prior if `priors`."""
    return [World.of(None, CASES + seed, seed, seed if priors else 0) for seed in range(num_cases)]


@cache
def _prior(seed: int) -> LanguageModel:
    return untrained_prior(WORDS, TOKENS, initializer_range=0.15, seed=seed).double()


def kl(log_p: Tensor, log_q: Tensor) -> float:
    """KL(p || q), nats."""
    return enumeration.kl(log_p, log_q).item()


def scores(log_guide: Tensor) -> Tensor:
    """grad log q(x) of each response by the S logits of q, `[S, S]`."""
    return torch.eye(len(log_guide), dtype=log_guide.dtype) - log_guide.exp()


def gradient_at(log_q: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of a function of log q by the logits of q, `[S]`, by autograd."""
    logits = log_q.clone().requires_grad_()
    return torch.autograd.grad(value(logits.log_softmax(-1)), logits)[0]


def mean_gradient(log_draw: Tensor, log_guide: Tensor, coefficient: Tensor) -> Tensor:
    """E_a[c grad log q] by the logits of q, for draws from a, `[S]`."""
    return (log_draw.exp() * coefficient) @ scores(log_guide)


def noise(log_guide: Tensor, coefficient: Tensor) -> float:
    """E ||g - E g||^2 for g = c grad log q with draws from q."""
    squares = scores(log_guide).square().sum(-1)
    second = (log_guide.exp() * coefficient.square() * squares).sum()
    return (second - mean_gradient(log_guide, log_guide, coefficient).square().sum()).item()

"""World of 21 responses, on which every trainer's target is a sum: five words, two tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference import Enumeration
from inference.enumeration import kl
from inference.targets.fixed_points import TARGETS, Problem
from model import AlignmentModel, LanguageModel, Prompts
from model.prior.grammar import untrained_prior
from model.rewards.tokens import TokenReward

WORDS, TOKENS, PROMPT = 5, 2, "w1"
MAX_GROUP = 8
"""Largest number of responses in a group whose target is computed: a sum over all groups."""
TARGET, POSTERIOR = "to its target", "to the posterior"


def reward_of(response: Tensor) -> Tensor:
    """Reward of responses `[..., 2]`: one of 25 random numbers between 0 and 1, `[...]`."""
    generator = torch.Generator().manual_seed(1)
    table = torch.rand(WORDS, WORDS, generator=generator, dtype=torch.float64)
    return table.to(response.device)[response[..., 0], response[..., 1]]


@dataclass(frozen=True)
class World:
    """Model at one beta, its exact posterior, and a predicted target.

    Attributes:
        log_target: `[S, N]`, log of the target, nats.
    """

    model: AlignmentModel
    prompts: Prompts
    truth: Enumeration
    log_target: Tensor

    @classmethod
    def of(cls, beta: float, target: str, group_size: int | None = None) -> "World":
        """The world at `beta`, with the target of that name in `TARGETS`.

        `group_size` is the number of responses in a group, at most `MAX_GROUP`; the target of
        larger groups is taken to be the limit.
        """
        prior = untrained_prior(WORDS, TOKENS, initializer_range=0.15, seed=0)
        reward = TokenReward(lambda response, _: reward_of(response), prior)
        model, prompts = AlignmentModel(prior, reward, beta), prior.encode([PROMPT])
        is_small = group_size is not None and group_size <= MAX_GROUP
        options = {"group_size": group_size} if is_small and TARGETS[target].has_groups else {}
        log_target = TARGETS[target](Problem.of(model, prompts), **options)
        return cls(model, prompts, Enumeration(model, prompts), log_target)

    @property
    def prior(self) -> LanguageModel:
        """p0."""
        return self.model.prior

    def distances(self, log_guide: Tensor) -> dict[str, float]:
        """KL from q, `[S, N]` in nats, to the target and to the posterior."""
        return {
            TARGET: kl(log_guide, self.log_target).mean().item(),
            POSTERIOR: kl(log_guide, self.truth.log_posterior).mean().item(),
        }

    def apart(self) -> float:
        """KL from the target to the posterior, nats."""
        return kl(self.log_target, self.truth.log_posterior).mean().item()

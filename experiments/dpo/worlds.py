"""World of 21 responses with a judge: all pairs of responses, and preferences of the judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from guides import Guide, MeanField, NGram, Tabular
from inference import Enumeration
from inference.direct_preferences import ResponsePairs
from model import AlignmentModel, TokenReward
from model.preferences import FIRST, Comparisons, simulate
from model.prior.grammar import untrained_prior

WORDS, TOKENS, PROMPT = 5, 2, "w1"
SHARPNESS = 10.0
"""Nats of the judge's preference per unit of reward."""


@dataclass(frozen=True)
class World:
    """The model of the judge's reward, and the exact posterior.

    Attributes:
        reward: `[S]`, the judge's reward of each response, in nats of the judge.
        beta: beta of the posterior in nats of the judge, and of DPO.
    """

    model: AlignmentModel
    truth: Enumeration
    reward: Tensor
    beta: float

    @classmethod
    def of(cls, beta: float) -> Self:
        """World with rewards between 0 and 1, and the posterior at `beta`."""
        prior = untrained_prior(WORDS, TOKENS, initializer_range=0.15, seed=0).double()
        table = torch.rand(WORDS, WORDS, generator=torch.Generator().manual_seed(1))

        def reward_of(response: Tensor, _: Tensor) -> Tensor:
            return table.double()[response[..., 0], response[..., 1]]

        model = AlignmentModel(prior, TokenReward(reward_of, prior), beta)
        truth = Enumeration(model, prior.encode([PROMPT]))
        reward = SHARPNESS * beta * truth.log_likelihood[:, 0]
        return cls(model, truth, reward, SHARPNESS * beta)

    def population(self) -> ResponsePairs:
        """Preferences without end: every ordered pair, weight p0(x) p0(y) P(x beats y)."""
        index = torch.arange(len(self.reward))
        first, second = torch.cartesian_prod(index, index).T
        log_prior = self.truth.log_prior[:, 0]
        log_wins = logsigmoid(self.reward[first] - self.reward[second])
        weight = (log_prior[first] + log_prior[second] + log_wins).exp()
        return self._pairs(first, second, torch.full_like(first, FIRST), weight)

    def preferences(self, number: int, seed: int) -> tuple[ResponsePairs, Comparisons]:
        """Preferences of the judge between draws of the prior, as responses and one-hot."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            prob = self.truth.log_prior[:, 0].exp()
            first, second = prob.multinomial(2 * number, replacement=True).view(2, -1)
            outcome = simulate(self.reward[first], self.reward[second])
        one_hot = torch.eye(len(self.reward), dtype=torch.float64)
        comparisons = Comparisons(one_hot[first], one_hot[second], outcome)
        return self._pairs(first, second, outcome), comparisons

    def by(self, reward: Tensor) -> AlignmentModel:
        """The model of another reward of each response, `[S]`, in nats of the judge."""
        support, prior = self.truth.support[:, 0], self.model.prior

        def reward_of(response: Tensor, _: Tensor) -> Tensor:
            is_same = (response[..., None, :] == support).all(-1)  # [..., S]
            return is_same.to(reward) @ reward

        return AlignmentModel(prior, TokenReward(reward_of, prior), self.beta)

    def _pairs(
        self, first: Tensor, second: Tensor, outcome: Tensor, weight: Tensor | None = None
    ) -> ResponsePairs:
        support = self.truth.support[:, 0]
        prompts = self.truth.prompts[[0] * len(first)]
        return ResponsePairs(
            prompts, torch.stack([support[first], support[second]]), outcome, weight
        )


RICH = "tabular"
"""The family of all distributions."""
FAMILIES: dict[str, Callable[[World], Guide]] = {
    RICH: lambda world: Tabular(world.model.prior, world.truth.prompts),
    "mean-field": lambda world: MeanField(world.model.prior, world.truth.prompts),
    "1-gram": lambda world: NGram(world.model.prior, n=1),
}
"""Families of guides, the first with all distributions."""

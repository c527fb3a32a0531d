"""Particles: unfinished responses with weights, and a language model that reads along."""

import copy
import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from inference.samplers.population import Population
from model import ResponseDistribution
from model.common import ranks
from model.prior.division import Block, Division
from model.prior.logits import sample_token, token_log_prob, uniform_numbers


class Particles(Population):
    """K unfinished responses to each of N prompts, without tokens at the start.

    Args:
        prior: the distribution of the responses.
        num_particles: K.

    Attributes:
        response: `[K, N, T]`, the padding id at tokens that are not set yet.
        ended: `[K, N]`, True if a token is an end id.
        log_psi: `[K, N]`, twist contained in `log_weight`, nats.
        num_tests: `[N]`, number of tokens that a `TokenRejection` has tested.
        space: the set of responses.
    """

    inherited = (*Population.inherited, "ended", "log_psi")

    def __init__(self, prior: ResponseDistribution, num_particles: int) -> None:
        self.space, device = prior.space, prior.prompts.ids.device
        shape = (num_particles, len(prior.prompts), *prior.event_shape)
        super().__init__(torch.full(shape, self.space.pad_id, device=device))
        self.ended = torch.zeros_like(self.root, dtype=torch.bool)
        self.log_psi = torch.zeros_like(self.log_weight)
        self.num_tests = torch.zeros_like(self.num_resamplings)

    def write(self, token: Tensor, t: int) -> None:
        """Set token t, `[K, N]`, of all responses that have not ended."""
        self.response[..., t - 1] = token.masked_fill(self.ended, self.space.pad_id)
        self.ended = self.ended | self.space.is_end(token)


class Stream:
    """A language model inside K N responses: next logits `[B', V]`, and its state.

    Ranks divide the prompts, because resampling moves particles within a prompt, if there are as
    many prompts as ranks. Then B' = K N' for the N' prompts of this rank.
    """

    def __init__(self, distribution: ResponseDistribution, num_particles: int) -> None:
        self.decoder, self.temperature = distribution.decoder, distribution.temperature
        prompts = distribution.prompts
        self.shape = (num_particles, len(prompts))
        is_shared = distribution.division is not None and len(prompts) >= ranks.num_ranks()
        self.by_prompts = Division("prompts") if is_shared else None
        self.own = slice(None)
        if self.by_prompts is not None:
            self.own = self.by_prompts.own_block(*self.shape)[1].prompts
        own = prompts if self.by_prompts is None else prompts[self.own]
        rows = torch.arange(len(own), device=prompts.ids.device).repeat(num_particles)
        logits, state = self.decoder.start(own)
        self.logits, self.state = logits[rows], state.select(rows)

    def sample(self) -> Tensor:
        """One token for each response, `[K, N]`."""
        uniform = uniform_numbers(math.prod(self.shape), self.logits.device).view(self.shape)
        return self._of_own(lambda own: sample_token(self.logits, self.temperature, own(uniform)))

    def log_prob(self, token: Tensor) -> Tensor:
        """log p of the next tokens `[K, N]`, nats."""
        return self._of_own(
            lambda own: token_log_prob(self.logits, own(token), self.temperature).double()
        )

    def extend(self, token: Tensor, ancestors: Tensor | None) -> None:
        """Append `token` `[K, N]` to the responses of `ancestors` `[K, N]`, or to all if None."""
        state = self.state
        if ancestors is not None:
            own = ancestors[:, self.own]
            column = torch.arange(own.shape[1], device=own.device)
            state = state.select((own * own.shape[1] + column).flatten())  # row of (k, n)
        logits, self.state = self.decoder.extend(state, token[:, self.own].reshape(-1, 1))
        self.logits = logits[:, -1]

    def copy(self) -> Self:
        """The same next logits, from which tokens can be removed."""
        new = copy.copy(self)
        new.logits = self.logits.clone()
        return new

    def remove(self, token: Tensor, where: Tensor) -> Tensor:
        """Give a token `[K, N]` the probability 0 where `where` `[K, N]` is True.

        Returns:
            True where no token is left, `[K, N]`. The token stays there.
        """
        rows = torch.arange(len(self.logits), device=token.device)
        own_token = token[:, self.own].flatten()
        before = self.logits[rows, own_token]
        self.logits[rows, own_token] = before.masked_fill(where[:, self.own].flatten(), -torch.inf)
        is_empty = self.logits.isneginf().all(-1)
        self.logits[rows[is_empty], own_token[is_empty]] = before[is_empty]
        return self._of_own(lambda _: is_empty.double()).bool()

    def _of_own(self, function: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        """`[K, N]`, computed by each rank for its own responses `[B']`."""

        def of_block(block: Block) -> tuple[Tensor]:
            result = function(lambda tensor: tensor[block].flatten())
            return (result.unflatten(0, (self.shape[0], -1)),)

        if self.by_prompts is None:
            return of_block(Block(slice(None), slice(None)))[0]
        return self.by_prompts.compute(of_block, *self.shape)[0]

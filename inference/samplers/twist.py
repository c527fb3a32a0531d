"""Twists: what evidence the beginning of a response will come to, for sequential Monte Carlo.

    psi_t(x_<=t) ~ E_p0[exp(r(x)/beta) | x_<=t]

Any twist leaves the estimate of Z unbiased; a good one makes it precise (Zhao et al. 2024, arXiv 2404.17546, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from model import Prompts, ResponseSpace
from model.common.checks import finite, function

Twist = Callable[[Prompts, Tensor, int], Tensor]
"""twist(prompts, response, t) -> log psi_t, `[K, N]`, nats, for responses `[K, N, T]` whose first t tokens are set, t from 1 to
T - 1, and the rest the padding id. -inf says that nothing that begins so is possible; if that is wrong, Z_hat is biased low.
A response that ended before token t keeps the twist it ended with: what is returned for it is not looked at."""


@runtime_checkable
class HasTwist(Protocol):
    """A guide with a twist of its own, such as `Twisted`."""

    def twist(self, prompts: Prompts, response: Tensor, t: int) -> Tensor:
        """See `Twist`."""


class LikelihoodTwist:
    """log psi_t(x_<=t) = scale r(x_<=t, end)/beta: the evidence if the response were to end here.

    For evidence that makes sense of half a response, as the sentiment of a text does. Costs one more evaluation a token.
    A prefix that is impossible now may be possible later: where a response has not ended, log psi is at most `floor` below
    that of the empty response (below 0 where that is impossible too), so that the prefix becomes rare and is not lost. One that
    has ended is as impossible as it is.

    Args:
        model: whose factors are the evidence.
        scale: 0 for no twist, 1 for the evidence itself; less where early evidence says little of the whole.
        floor: nats. Large, it starves the prefixes that must become possible later to reach the posterior's mass.
    """

    def __init__(self, model: Program, scale: float = 1.0, *, floor: float = 3.0) -> None:
        self.model = function("the model", model, why="a Pyro program over prompts")
        self.scale, self.floor = (
            finite("scale", scale, at_least=0),
            finite("floor", floor, at_least=0),
        )
        self._space: ResponseSpace | None = None

    def __call__(self, prompts: Prompts, response: Tensor, t: int) -> Tensor:
        if self._space is None:  # finding it runs the program, once
            self._space = autoregressive(
                response_distribution(self.model, prompts, role="model")
            ).space
        last, end_ids = response[..., t - 1], self._space.end_ids
        unfinished = self._space.is_token(response)[..., t - 1] & ~torch.isin(last, end_ids)
        closed = response.clone()
        closed[..., t] = torch.where(unfinished, end_ids[0], response[..., t])
        log_psi = self._scaled_evidence(prompts, closed)
        empty = torch.full_like(response[:1], self._space.pad_id)
        empty[..., 0] = end_ids[0]
        of_empty = self._scaled_evidence(prompts, empty)
        lowest = torch.where(of_empty.isneginf(), 0.0, of_empty) - self.floor  # [1, N]
        return torch.where(unfinished, torch.maximum(log_psi, lowest), log_psi)

    def _scaled_evidence(self, prompts: Prompts, response: Tensor) -> Tensor:
        log_likelihood = log_likelihood_at(self.model, prompts, response)
        return torch.where(
            log_likelihood.isneginf(), -torch.inf, self.scale * log_likelihood
        )  # 0 times -inf is NaN

"""Twists: estimates of the likelihood to come after a prefix, for sequential Monte Carlo.

    psi_t(x_<=t) ~ E_p0[likelihood(x) | x_<=t]

Every twist leaves the estimate of Z unbiased; a good twist makes the estimate precise (Zhao et al.
2024, arXiv 2404.17546, section 3).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from model import Prompts, ResponseSpace
from model.common.checks import finite, function

Twist = Callable[[Prompts, Tensor, int], Tensor]
"""A function twist(prompts, response, t) -> log psi_t, `[K, N]`, nats.

The first t tokens of the responses `[K, N, T]` are set, with t from 1 to T - 1, and the rest is the
padding id. -inf means that no completion is possible; where that is wrong, Z_hat is biased low. A
response that ended before token t keeps the twist of its end, whatever the function returns."""


class LikelihoodTwist:
    """log psi_t(x_<=t) = scale * log likelihood(x_<=t, end), as if the response ended here.

    For rewards of unfinished texts, such as sentiment. Costs one evaluation of the model a token. A
    prefix that is impossible now may be possible later: until the response has ended, log psi is at
    most `floor` below that of the empty response (below 0 if that is impossible too), so that such
    prefixes become rare and do not vanish.

    Args:
        model: Source of the likelihood.
        scale: 0 for no twist, 1 for the whole likelihood; less if prefixes predict the end badly.
        floor: Nats. If large, prefixes that must become possible later starve.
    """

    def __init__(self, model: Program, scale: float = 1.0, *, floor: float = 3.0) -> None:
        self.model = function("the model", model, why="a Pyro program over prompts")
        self.scale = finite("scale", scale, at_least=0)
        self.floor = finite("floor", floor, at_least=0)
        self._space: ResponseSpace | None = None

    def __call__(self, prompts: Prompts, response: Tensor, t: int) -> Tensor:
        if self._space is None:  # one run of the program
            prior = response_distribution(self.model, prompts, role="model")
            self._space = autoregressive(prior).space
        last, end_ids = response[..., t - 1], self._space.end_ids
        unfinished = self._space.is_token(response)[..., t - 1] & ~torch.isin(last, end_ids)
        closed = response.clone()
        closed[..., t] = torch.where(unfinished, end_ids[0], response[..., t])
        log_psi = self._scaled(prompts, closed)
        empty = self._space.of_rows([[]] * len(prompts))[None]
        log_psi_empty = self._scaled(prompts, empty)
        lowest = torch.where(log_psi_empty.isneginf(), 0.0, log_psi_empty) - self.floor  # [1, N]
        return torch.where(unfinished, torch.maximum(log_psi, lowest), log_psi)

    def _scaled(self, prompts: Prompts, response: Tensor) -> Tensor:
        log_likelihood = log_likelihood_at(self.model, prompts, response)
        # 0 times -inf is NaN
        return torch.where(log_likelihood.isneginf(), -torch.inf, self.scale * log_likelihood)

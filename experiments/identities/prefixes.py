"""Prefixes: probabilities of the next token, and distributions that are made token by token."""

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.identities.world import World
from inference.samplers.twist import Twist
from model import Prompts


def masses(log_prob: Tensor, response: Tensor, prefix: Tensor) -> Tensor:
    """log of the probability of all responses `[S, T]` that begin with each of S prefixes, `[S]`.

    The prefixes are `[S, t]`.
    """
    same = (prefix[:, None] == response[:, : prefix.shape[1]]).all(-1)
    return log_prob.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)


def given(world: World, log_prob: Tensor, t: int) -> Tensor:
    """p(y given the first t tokens of x), `[S, S]`."""
    support = world.truth.support[:, 0]
    same = (support[:, None, :t] == support[:, :t]).all(-1)
    return log_prob.expand_as(same).masked_fill(~same, -torch.inf).softmax(1)


def next_token(world: World, log_prob: Tensor, t: int) -> Tensor:
    """log of the probability of token t + 1 of each response given t tokens, `[S]`, nats."""
    response = world.truth.support[:, 0]
    longer, here = (masses(log_prob, response, response[:, :end]) for end in (t + 1, t))
    return longer - here


def soft_value(world: World, log_joint: Tensor, t: int) -> Tensor:
    """log E_p0[likelihood] of the responses that go on from t tokens of each response, `[S]`."""
    response = world.truth.support[:, 0]
    joint, prior = (masses(log, response, response[:, :t]) for log in (log_joint, world.log_prior))
    return joint - prior


def token_by_token(world: World, score: Callable[[int], Tensor]) -> Tensor:
    """log q of responses whose tokens are each drawn in proportion to exp(score), `[S]`, nats.

    score(t) is of token t + 1 of each response, `[S]`, nats.
    """
    response = world.truth.support[:, 0]
    log_q = torch.zeros_like(world.log_prior)
    for t in range(response.shape[1]):
        step = score(t)
        log_q = log_q + step - _normaliser(step, response, t)
    return log_q


def _normaliser(step: Tensor, response: Tensor, t: int) -> Tensor:
    """log of the sum of exp(step) over the tokens that follow the prefix of t tokens, `[S]`."""
    prefix, longer = response[:, :t], response[:, : t + 1]
    same = (prefix[:, None] == prefix).all(-1)
    siblings = (longer[:, None] == longer).all(-1).sum(0).double()  # responses to each token
    return (step - siblings.log()).expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)


def twist_of(world: World, value: Callable[[int], Tensor]) -> Twist:
    """Twist of a value of the first t tokens of each response, `[S]`, nats."""
    support = world.truth.support[:, 0]

    def twist(_: Prompts, response: Tensor, t: int) -> Tensor:
        same = (response[..., None, :t] == support[:, :t]).all(-1)  # [K, N, S]
        return value(t)[same.int().argmax(-1)]

    return twist

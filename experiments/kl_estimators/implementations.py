"""Implementations of the KL penalty, as functions of the log-ratio of each token."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from inference.kl_estimators import k1, k2, k3, k3_plus

Estimator = Callable[[Tensor], Tensor]
"""Estimate of the KL from log q - log p0 of each token, or of a response, `[...]` -> `[...]`."""


@dataclass(frozen=True)
class Implementation:
    """A way to penalise the KL.

    Attributes:
        terms: term of each token, `[..., T]` -> `[..., T]`, whose sum is differentiated with the
            draws held fixed; of a whole response, `[..., T]` -> `[..., 1]`.
        value: the KL of a response as a trainer logs it, `[..., T]` -> `[...]`.
    """

    terms: Estimator
    value: Estimator


def in_reward(k: Estimator) -> Implementation:
    """REINFORCE with minus k of each token as the token's reward, and returns-to-go."""

    def terms(log_ratio: Tensor) -> Tensor:
        to_go = k(log_ratio).flip(-1).cumsum(-1).flip(-1)
        return to_go.detach() * log_ratio

    return Implementation(terms, lambda log_ratio: k(log_ratio).sum(-1))


def in_own_reward(k: Estimator) -> Implementation:
    """REINFORCE with minus k of each token as the reward of this token alone."""
    return Implementation(
        lambda log_ratio: k(log_ratio).detach() * log_ratio, lambda log_ratio: k(log_ratio).sum(-1)
    )


def as_loss(k: Estimator) -> Implementation:
    """k of each token, differentiated with the samples fixed."""
    return Implementation(k, lambda log_ratio: k(log_ratio).sum(-1))


def of_response(k: Estimator) -> Implementation:
    """k of the whole response's log-ratio, differentiated with the samples fixed."""
    return Implementation(
        lambda log_ratio: k(log_ratio.sum(-1, keepdim=True)), lambda log_ratio: k(log_ratio.sum(-1))
    )


def times_ratio(k: Estimator) -> Estimator:
    """k times an importance ratio of 1, which is differentiated."""
    return lambda log_ratio: (log_ratio - log_ratio.detach()).exp() * k(log_ratio)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "k1 in the reward, returns-to-go (RLHF's PPO)": in_reward(k1),
    "k1 in the reward, its own token only": in_own_reward(k1),
    "k1 as a loss, token by token": as_loss(k1),
    "k2 as a loss, token by token": as_loss(k2),
    "k2 as a loss, whole response": of_response(k2),
    "k3 as a loss, token by token (GRPO)": as_loss(k3),
    "k3 as a loss, whole response": of_response(k3),
    "k3 in the reward, returns-to-go": in_reward(k3),
    "k3+ as a loss, token by token": as_loss(k3_plus),
    "k3 times the ratio, token by token (TRL)": as_loss(times_ratio(k3)),
    "k3 upside down as a loss, whole response": of_response(lambda log_ratio: k3(-log_ratio)),
}
"""Implementations by name, with draws of the guide."""

OFF_POLICY = {
    "k1 in the reward, returns-to-go": in_reward(k1),
    "k2 as a loss, whole response": of_response(k2),
    "k2 as a loss, token by token": as_loss(k2),
    "k3 as a loss, token by token": as_loss(k3),
    "k3 times the ratio, token by token": as_loss(times_ratio(k3)),
    "k3 times the ratio, whole response": of_response(times_ratio(k3)),
}
"""Implementations that are measured with draws of an older guide."""


CORRECTIONS: dict[str, Estimator] = {
    "no correction": lambda log_ratio: log_ratio * 0.0,
    "ratio of the token": lambda log_ratio: log_ratio,
    "ratio of the prefix": lambda log_ratio: log_ratio.cumsum(-1),
    "ratio of the response": lambda log_ratio: log_ratio.sum(-1, keepdim=True).expand_as(log_ratio),
}
"""log of the weight of each token's term, from log q - log a for the sampler a, by name."""

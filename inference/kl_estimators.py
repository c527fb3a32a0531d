"""Estimators of KL(q || p) from one sample of q (Schulman 2020, "Approximating KL divergence").

    k1 = l                 unbiased; negative on half the samples near q = p
    k2 = l^2 / 2           biased, never negative
    k3 = exp(-l) - 1 + l   unbiased and never negative: k1 with the control variate exp(-l) - 1
    k3+                    the value of k3 and the gradient of k2, a straight-through estimator

l = log q(x) - log p(x), nats. In a reward or as a loss, the gradient of each estimator is that of
another objective, depending on the place: `experiments.kl_estimators` enumerates the objectives.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.common.checks import instance


def k1(log_ratio: Tensor) -> Tensor:
    """l, for log q - log p of any shape."""
    return instance("log_ratio", log_ratio, Tensor)


def k2(log_ratio: Tensor) -> Tensor:
    """l^2 / 2, with a bias of third order in the distance."""
    return _wide(log_ratio).square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """exp(-l) - 1 + l."""
    log_ratio = _wide(log_ratio)
    return (-log_ratio).expm1() + log_ratio


def k3_plus(log_ratio: Tensor) -> Tensor:
    """exp(-l) - 1 + l, with the gradient of l^2 / 2."""
    by_gradient = k2(log_ratio)
    return k3(log_ratio).detach() + by_gradient - by_gradient.detach()


def _wide(log_ratio: Tensor) -> Tensor:
    """The log ratio in float32 at least: half precision does not hold exp(12)."""
    log_ratio = instance("log_ratio", log_ratio, Tensor)
    return log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3+": k3_plus,
}

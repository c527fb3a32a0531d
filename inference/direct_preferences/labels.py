"""Likelihoods of labelled responses, desirable or not: KTO and BCO.

A pair is a desirable and an undesirable response.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from model.common.checks import finite, positive
from model.preferences import FIRST, TIE

Likelihood = Callable[[Tensor, Tensor, float], Tensor]
"""Function of rewards over beta `[R, C]`, outcomes `[C]` and beta: log-likelihoods `[C]`, nats.

R is 2 for pairs, and 1 for labelled responses; of lists the outcome is `[R, C]`, see `OfList`."""


def pair(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Both rewards over beta of pairs, `[C]` each, from `[2, C]`."""
    if len(rewards) != 2:
        raise ValueError(
            "the likelihood compares pairs, got labelled responses: use `kto` or `bco`"
        )
    return rewards[0], rewards[1]


def mean_reward(rewards: Tensor) -> float:
    """Mean of r/beta = log q/p0 over the responses of a step, at least 0, without gradient."""
    return max(0.0, rewards.detach().mean().item())


def kto(
    *,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    reference: float | Callable[[Tensor], float | Tensor] = mean_reward,
) -> Likelihood:
    """KTO: a value of each response, above or below a reference point z.

        D sigmoid(beta (r/beta - z)) - D       desirable, weight D
        U sigmoid(beta (z - r/beta)) - U       undesirable, weight U

    Minus the loss of the paper; no normalised likelihood. The paper's z is KL(q || p0); the paper
    estimates z by responses to other prompts in the batch. Here z is the mean over the responses of
    the step, whose mean is at most 0 for draws of p0, so that z is 0.

    On data without end, x ~ p0, desirable with probability g(x), a rich guide maximises
    E_p0[c sigmoid(beta log q/p0 - beta z)] for c = D g - U (1 - g). With beta below 1 the maximum
    has no mass where c < 0, and q/p0 grows with c elsewhere, for small beta in proportion: a soft
    filter, not the posterior (derived here, and enumerated in the tests).

    Args:
        desirable: D.
        undesirable: U.
        reference: z, nats, or a function of r/beta of the step, `[R, C]`, that returns a number or
            a tensor of one.
    """
    weights = positive("desirable", desirable), positive("undesirable", undesirable)
    if not callable(reference):
        reference = finite("reference", reference)

    def likelihood(rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        point = reference(rewards) if callable(reference) else reference
        if isinstance(point, Tensor) and point.numel() == 1:
            point = point.item()
        point = finite("what the reference returned", point)
        gain = torch.sigmoid(beta * (rewards - point))  # [R, C]
        return _of_labels(weights[0] * (gain - 1), -weights[1] * gain, outcome)

    return likelihood


def bco(*, shift: float | None = None) -> Likelihood:
    """BCO: a logistic classifier of desirable responses, with r - d as the logit.

    On data without end, x ~ p0, desirable with probability g(x), a rich guide has the maximum
    beta log q/p0 = log g/(1 - g) + d: the posterior of the reward log g/(1 - g), if d is minus
    beta log Z of this reward. With another d no q is there, and the target is another.

    Args:
        shift: d; None for the mean of r over all responses of the step. It differs from the mean
            of the two labels' means where one label is rarer.
    """
    fixed = None if shift is None else finite("shift", shift)

    def likelihood(rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        logit = beta * rewards
        logit = logit - (logit.detach().mean() if fixed is None else fixed)
        return _of_labels(logsigmoid(logit), logsigmoid(-logit), outcome)

    return likelihood


def _of_labels(good: Tensor, bad: Tensor, outcome: Tensor) -> Tensor:
    """Values of desirable and of undesirable responses, `[R, C]` each, by their labels, `[C]`."""
    share = torch.where(outcome == TIE, 0.5, (outcome == FIRST).to(good))  # [C]
    shares = torch.stack([share, 1 - share][: len(good)])
    return (shares * good + (1 - shares) * bad).sum(0)

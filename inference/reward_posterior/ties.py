"""How strong ties are, from the data: the nu of `BradleyTerry` that makes the outcomes most probable (empirical Bayes).

    log p(outcomes | nu) ~ log p(outcomes, w | nu) - 1/2 log det H,   at the w of highest density, up to a constant (Laplace)

H is minus the Hessian there. Without the determinant nu comes out too small, by a fifth where weights are many.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar

from inference.reward_posterior.maximum import maximum_a_posteriori
from model.common.checks import finite, instance, positive
from model.preferences import TIE, BradleyTerry, Comparisons, LinearHead, log_outcome


def tie_strength(comparisons: Comparisons, prior_scale: float, flip: float = 0.0) -> float:
    """The most probable nu; 0 where there are no ties. Of a linear reward, whatever the head: nu is about the annotators.

    Args:
        comparisons: with their outcomes.
        prior_scale: of the weights, as in `BradleyTerry`.
        flip: epsilon, as there.

    Raises:
        ValueError: if there are no outcomes, or ties alone, or a number is out of its range.
        NotMaximisedError: if the weights of highest density are not found.
    """
    instance("comparisons", comparisons, Comparisons)
    prior_scale = positive("prior_scale", prior_scale)
    flip = finite("flip", flip, at_least=0, below=0.5)
    if comparisons.outcome is None or bool((comparisons.outcome == TIE).all()):
        raise ValueError(
            "the comparisons have no outcomes, or ties alone: expected some in which one was preferred"
        )
    outcome, z = comparisons.outcome[:, None], comparisons.difference
    share = (outcome == TIE).double().mean().item()
    if share == 0:
        return 0.0

    def minus_log_likelihood(log_nu: float) -> float:
        model = BradleyTerry(
            LinearHead(z.shape[1]), prior_scale, flip=flip, tie_strength=math.exp(log_nu)
        )
        w = maximum_a_posteriori(model, comparisons)[0]
        difference = (z @ w).requires_grad_()
        log_prob = log_outcome(difference, flip, model.tie_strength).gather(1, outcome)
        (slope,) = torch.autograd.grad(log_prob.sum(), difference, create_graph=True)
        (curvature,) = torch.autograd.grad(
            slope.sum(), difference
        )  # each probability has one difference of its own
        precision = torch.eye(len(w), dtype=w.dtype) / prior_scale**2 - z.T @ (
            curvature[:, None] * z
        )
        log_joint = log_prob.sum() - w.square().sum() / (2 * prior_scale**2)
        return (torch.linalg.slogdet(precision).logabsdet / 2 - log_joint).item()

    at_equal_rewards = math.log(
        2 * share / (1 - share)
    )  # where ties are most likely, so that nu is no less
    for width in (
        5.0,
        10.0,
        20.0,
    ):  # nats; the further apart rewards are, the stronger must be ties that are seen at all
        high = at_equal_rewards + width
        found = minimize_scalar(
            minus_log_likelihood, bounds=(at_equal_rewards, high), options={"xatol": 0.01}
        ).x
        if found < high - 0.1:
            break
    return math.exp(found)

"""Strength of ties from the data: the nu of `BradleyTerry` with the most probable outcomes.

    log p(outcomes | nu) ~ log p(outcomes, w | nu) - 1/2 log det H   (Laplace, up to a constant)

w is the point of highest density and H is minus the Hessian there. Without the determinant, nu is
too small, by a fifth for many weights.
"""

import math

import scipy
import torch

from inference.reward_posterior.maximum import maximum_a_posteriori
from model.common.checks import finite, instance, positive
from model.preferences import TIE, BradleyTerry, Comparisons, LinearHead, log_outcome


def tie_strength(comparisons: Comparisons, prior_scale: float, flip: float = 0.0) -> float:
    """Return the most probable nu of a linear reward; 0 if there are no ties.

    Args:
        comparisons: Comparisons with outcomes, not all of them ties.
        prior_scale, flip: See `BradleyTerry`.

    Raises:
        NotMaximisedError: If the weights of highest density are not found.
    """
    instance("comparisons", comparisons, Comparisons)
    prior_scale = positive("prior_scale", prior_scale)
    flip = finite("flip", flip, at_least=0, below=0.5)
    if comparisons.outcome is None or bool((comparisons.outcome == TIE).all()):
        raise ValueError("the comparisons have no outcomes, or ties alone: expected preferences")
    outcome, z = comparisons.outcome[:, None], comparisons.difference
    share = (outcome == TIE).double().mean().item()
    if share == 0:
        return 0.0

    def minus_log_likelihood(log_nu: float) -> float:
        head, nu = LinearHead(z.shape[1]), math.exp(log_nu)
        model = BradleyTerry(head, prior_scale, flip=flip, tie_strength=nu)
        w = maximum_a_posteriori(model, comparisons)[0]
        difference = (z @ w).requires_grad_()
        log_prob = log_outcome(difference, flip, model.tie_strength).gather(1, outcome)
        # each probability depends on one difference, so that the sum has all derivatives
        (slope,) = torch.autograd.grad(log_prob.sum(), difference, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), difference)
        identity = torch.eye(len(w), dtype=w.dtype)
        precision = identity / prior_scale**2 - z.T @ (curvature[:, None] * z)
        log_joint = log_prob.sum() - w.square().sum() / (2 * prior_scale**2)
        return (torch.linalg.slogdet(precision).logabsdet / 2 - log_joint).item()

    # at equal rewards ties are most likely, so that nu is no less
    low = math.log(2 * share / (1 - share))
    # nats above: the further apart rewards are, the stronger ties must be to occur at all
    for width in (5.0, 10.0, 20.0):
        bounds = (low, low + width)
        log_nu = scipy.optimize.minimize_scalar(
            minus_log_likelihood, bounds=bounds, options={"xatol": 0.01}
        ).x
        if log_nu < low + width - 0.1:
            break
    return math.exp(log_nu)

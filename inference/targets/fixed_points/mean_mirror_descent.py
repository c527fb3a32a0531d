"""Mirror descent by squared residuals, with the mean reward in place of log Z.

    minimise  E_{q_k}[(r - r_bar - tau log q/q_k)^2],   r_bar = E_{q_k} r
    step      s + c e^s = (r - r_bar)/tau,   s = log q/q_k,   c = KL(q_k || q)

With tau log Z for r_bar the residual is 0 at the exact step, q_k exp(r/tau)/Z. With the mean, as in
the report on Kimi k1.5 (arXiv 2501.12599), no normalised q has the residual 0. The minimum over
normalised q is the step above (2026, arXiv 2602.05933): s = t - omega(t + log c), Wright's
function, for t = (r - r_bar)/tau.
"""

import math
from functools import partial

import numpy as np
import torch
from scipy.special import logsumexp, wrightomega
from torch import Tensor

from inference.targets.fixed_points.problem import Problem, by_prompt, root
from model.common.checks import whole_number


def mean_mirror_descent(problem: Problem, num_steps: int = 1) -> Tensor:
    """log q after `num_steps` steps from p0 at tau = `num_steps` beta, `[S, N]`, nats."""
    num_steps = whole_number("num_steps", num_steps)
    log_guide = problem.log_prior
    for _ in range(num_steps):
        step = partial(_step, tau=num_steps * problem.beta)
        log_guide = by_prompt(step, log_guide, problem.reward)
    return log_guide


def _step(log_guide: Tensor, reward: Tensor, tau: float) -> Tensor:
    log_mass = log_guide.numpy()
    centred = (reward - (log_guide.exp() * reward).sum()).numpy() / tau
    if np.ptp(centred) == 0:
        return log_guide

    def log_step(log_c: float) -> np.ndarray:
        return log_mass + centred - wrightomega(centred + log_c)

    # the sum of q is above 1 at c = 0, by Jensen, and falls
    low, high = -1.0, 1.0
    while logsumexp(log_step(low)) < 0 and low > math.log(np.finfo(float).tiny):
        low *= 2
    while logsumexp(log_step(high)) > 0:
        high *= 2
    log_c = root(lambda log_c: logsumexp(log_step(log_c)), low, high)
    return torch.from_numpy(log_step(log_c)).log_softmax(0)

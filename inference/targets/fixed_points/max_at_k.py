"""The largest of k draws in place of one: maximum at k, and pass@k.

    objective   E_q[max of r(x_1), ..., r(x_k)] - beta KL(q || p0)
    target      q(x) prop. to p0(x) exp(k E_q[max(r(x), best of k - 1)]/beta)

The derivative of the first term by q(x) is k E_q[max(r(x), r(x_2), ..., r(x_k))] (derived here; the
estimators are of Walder and Karkhanis 2025, arXiv 2505.15201). It grows with r(x) at the rate k
G^(k - 1), for G the probability of a draw of q with at most this reward. In the order of the
rewards log q/p0 follows from the rewards below, given the sum Z of p0 times its exponential, and
the sum falls as Z rises: there is one solution, a root of one number.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from inference.roots import root
from inference.targets.fixed_points.problem import Problem, by_prompt
from model.common.checks import finite, whole_number


def max_at_k_target(problem: Problem, k: int = 3) -> Tensor:
    """log q, `[S, N]`, nats; with k = 1 the posterior."""
    k = whole_number("k", k)

    def target(log_prior: Tensor, reward: Tensor) -> Tensor:
        order = reward.argsort()
        log_mass, steps = log_prior[order].tolist(), (reward[order].diff() / problem.beta).tolist()

        def log_ratio(log_z: float) -> tuple[list[float], float]:
            """log q/p0 up to a constant, in the order of the rewards, and the log of its sum."""
            gains, log_sum = [0.0], log_mass[0]
            for step, log_p in zip(steps, log_mass[1:], strict=True):
                share = math.exp(min(0.0, log_sum - log_z))  # G
                gains.append(gains[-1] + k * share ** (k - 1) * step)
                log_sum = float(np.logaddexp(log_sum, log_p + gains[-1]))
            return gains, log_sum

        log_z = root(lambda log_z: log_ratio(log_z)[1] - log_z, -1.0, k * sum(steps) + 1)
        gain = torch.empty_like(reward)
        gain[order] = reward.new_tensor(log_ratio(log_z)[0])
        return (log_prior + gain).log_softmax(0)

    return by_prompt(target, problem.log_prior, problem.reward)


def pass_at_k_target(problem: Problem, k: int, threshold: float) -> Tensor:
    """log q for pass@k, `[S, N]`, nats; a reward of at least the threshold is a success.

        target      q(x) prop. to p0(x) exp(s 1[r(x) >= threshold] / beta),   s = k (1 - p)^(k - 1)

    The posterior of the 0/1 reward at beta/s, with s the slope of pass@k by p at the target itself:
    the ratios among successes, and among failures, are the prior's for every k. For k above 1 a
    prompt that succeeds often has a small s, a prompt that rarely succeeds one up to k.
    """
    success = (problem.reward >= finite("threshold", threshold)).double()
    return max_at_k_target(replace(problem, reward=success, parts=None), k)

"""Training for pass@k: the probability that one or more of k draws succeed, with a KL penalty.

    objective   1 - (1 - p)^k - beta KL(q || p0),     p = q(r >= threshold)
    target      q(x) prop. to p0(x) exp(s 1[r(x) >= threshold] / beta),   s = k (1 - p)^(k - 1)

The gradient of pass@k is s times the gradient of p (Walder and Karkhanis 2025, arXiv 2505.15201,
estimate it without bias from n draws). The target is therefore the posterior of the 0/1 reward at
beta/s, with s the slope at the target itself: the ratios among successes, and among failures, are
the prior's for every k (derived here, and enumerated in the tests). For k above 1 a prompt that
succeeds often has a small s, and a prompt that rarely succeeds an s of up to k.
"""

from torch import Tensor

from inference.targets.fixed_points.problem import Problem, by_prompt, root
from model.common.checks import finite, whole_number


def pass_at_k(problem: Problem, k: int, threshold: float) -> Tensor:
    """log q, `[S, N]`, nats; a response with a reward of at least the threshold is a success."""
    k, threshold = whole_number("k", k), finite("threshold", threshold)

    def target(log_prior: Tensor, reward: Tensor) -> Tensor:
        success = (reward >= threshold).double()

        def log_guide(slope: float) -> Tensor:
            return (log_prior + slope / problem.beta * success).log_softmax(0)

        def excess(slope: float) -> float:
            failure = ((1 - success) @ log_guide(slope).exp()).item()
            return k * min(1.0, failure) ** (k - 1) - slope  # a sum may exceed 1 by rounding

        return log_guide(root(excess, 0.0, float(k)))

    return by_prompt(target, problem.log_prior, problem.reward)

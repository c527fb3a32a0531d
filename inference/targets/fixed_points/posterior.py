"""The posterior, and algorithms that reach it: exact mirror descent, and DPO with a rich guide.

    p*(x) = p0(x) exp(r(x)/beta) / Z

n exact steps of mirror descent, q_{k+1} prop. to q_k exp(r/tau), from q_0 = p0, end at the
posterior of beta = tau/n: the exponents add up. DPO (Rafailov et al. 2023, arXiv 2305.18290)
minimises the negative log-likelihood of a Bradley-Terry model with the reward beta log q/p0. On
preferences by r, over pairs that connect all responses, the minimum is at beta log q/p0 = r + c.
"""

from torch import Tensor

from inference.targets.fixed_points.problem import Problem


def posterior(problem: Problem) -> Tensor:
    """log p*, `[S, N]`, nats."""
    return problem.tilted(problem.reward / problem.beta)

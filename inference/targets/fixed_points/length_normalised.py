"""Length-normalised balance: log-probabilities divided by the length, with one log Z.

    residual    log Z + (log q - log p0)/length - r/beta
    target      q(x) = p0(x) exp(length(x) (r(x)/beta - c))

FlowRL (2025, arXiv 2509.15207) divides log q and log p0 by the number of tokens, against exploding
gradients, and neither log Z nor the reward. The residual is 0 where log q/p0 is length times
(r/beta - c), and c = log Z is what makes q sum to 1: a tilt by length, which prefers long
responses where r/beta > c, and short ones elsewhere.
"""

from functools import partial

from torch import Tensor

from inference.targets.fixed_points.problem import Problem, by_prompt, root


def length_normalised(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats."""
    _, length = problem.tokens("length-normalised")
    target = partial(_target, beta=problem.beta)
    return by_prompt(target, problem.log_prior, problem.reward, length.double())


def _target(log_prior: Tensor, reward: Tensor, length: Tensor, beta: float) -> Tensor:
    def log_guide(shift: float) -> Tensor:
        return log_prior + length * (reward / beta - shift)

    low, high = ((reward / beta).amin().item(), (reward / beta).amax().item())
    shift = root(lambda shift: log_guide(shift).logsumexp(0).item(), low, high)
    return log_guide(shift).log_softmax(0)

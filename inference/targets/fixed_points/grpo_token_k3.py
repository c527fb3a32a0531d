"""GRPO with the estimator k3 of the KL as a loss, token by token, as trainers compute it.

    update      E_q[w sum_t (A + beta (p0_t/q_t - 1)) grad log q_t],   A = (r - E_q r) / sd_q r
    w = 1       a sum over tokens, divided by one number for all responses (DAPO)
    w = 1/L     a mean over the L tokens of a response (GRPO as first published, GSPO)

Times D/beta = sd_q r, the update is that of `token_forward_kl` with D for beta; with w = 1/L, with
the reward (r - E_q r)/L and the penalty D/L. A response with an advantage above 0 counts more if
the response is short, below 0 if the response is long.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.own_spread import at_own_scale
from inference.targets.fixed_points.problem import Problem, by_prompt, root
from inference.targets.fixed_points.token_forward_kl import forward_kl_step
from inference.targets.fixed_points.token_tree import TokenTree


def grpo_token_k3(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for w = 1, `[S, N]`, nats: the solution nearest to p0.

    `group_size` is the number of responses in a group; None for large groups.
    """
    return _target(problem, group_size, mean=False)


def grpo_mean_k3(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for w = 1/L, `[S, N]`, nats; see `grpo_token_k3`."""
    return _target(problem, group_size, mean=True)


def _target(problem: Problem, group_size: int | None, *, mean: bool) -> Tensor:
    response, length = problem.tokens("grpo-mean-k3" if mean else "grpo-token-k3")
    weight = 1 / length.double() if mean else torch.ones_like(problem.reward)

    def target(response: Tensor, log_prior: Tensor, reward: Tensor, share: Tensor) -> Tensor:
        tree = TokenTree(response)

        def log_guide(reward: Tensor, width: float) -> Tensor:
            def at(centre: float) -> Tensor:
                centred = (reward - centre) * share
                return tree.log_guide(forward_kl_step, log_prior, centred, width * share)

            def excess(centre: float) -> float:
                return (at(centre).exp() * reward).sum().item() - centre

            if not mean or group_size is not None:
                return at(0.0)  # a constant plays no part, and advantages have the mean 0
            low, high = reward.amin().item(), reward.amax().item()
            return at(root(excess, low, high))

        return at_own_scale(
            log_guide, log_prior, reward, beta=problem.beta, group_size=group_size, grid=100
        )

    return by_prompt(target, response, problem.log_prior, problem.reward, weight)

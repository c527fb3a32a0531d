"""Penalties on the KL of each token, as trainers compute them, with and without scaled advantages.

    update      E_q[w sum_t (A - beta d_t) grad log q_t],   q_t = q(x_t | x_<t)
    forward     d_t = 1 - p0_t/q_t,   the estimator k3 of the KL as a loss
    reverse     sum_t d_t grad log q_t has the mean sum_t grad KL(q_t || p0_t), x_<t held fixed

At each prefix h this is the update of one token v with the reward Q(h, v) = E_q[r | h, v] (derived
here; see `token_tree`), so that for A = r - E_q r and w = 1

    forward     q(v | h) = beta p0(v | h) / (Lambda(h) - Q(h, v))
    reverse     q(v | h) prop. to p0(v | h) exp(Q(h, v)/beta)

Dr. GRPO with k3 as a penalty has the forward target, if no importance ratio multiplies the penalty.
k3 times a differentiable importance ratio has the reverse gradient (DeepSeek-V3.2, arXiv
2512.02556), and k2 as a loss. The posterior has log E_p0[exp(r/beta) | h, v] in place of Q/beta: a
token here is credited with the rewards behind it, and not charged with the KL that they cost.

GRPO has A = (r - E_q r) / sd_q r: the same targets with D = beta sd_q r for beta. With w = 1 the
tokens are summed and divided by one number for all responses (DAPO). With w = 1/L, a mean over the
L tokens of a response (GRPO as first published, GSPO), the reward is (r - E_q r)/L and the penalty
D/L: a response with an advantage above 0 counts more if the response is short, below 0 if it is
long.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.finite_group import of_group
from inference.targets.fixed_points.forward_kl import forward_kl_of
from inference.targets.fixed_points.own_spread import at_own_scale
from inference.targets.fixed_points.problem import Problem, by_prompt, root
from inference.targets.fixed_points.token_tree import Step, TokenTree

GRID = 100
"""Number of values of D between which a root is bracketed, where Lambda takes bisections."""


def token_forward_kl(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for advantages r - E_q r, `[S, N]`, nats; see `of_group` for `group_size`."""
    return _target("token-forward-kl", _forward, problem, group_size)


def token_reverse_kl(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for advantages r - E_q r, `[S, N]`, nats; see `of_group` for `group_size`."""
    return _target("token-reverse-kl", _reverse, problem, group_size)


def grpo_token_k3(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for scaled advantages, `[S, N]`, nats: the solution nearest to p0.

    `group_size` is the number of responses in a group; None for large groups.

    Raises:
        NoFixedPointError: if beta is below the smallest that has a solution, which is named.
    """
    return _target("grpo-token-k3", _forward, problem, group_size, scaled=True, grid=GRID)


def grpo_token_kl(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for scaled advantages, `[S, N]`, nats; see `grpo_token_k3`."""
    return _target("grpo-token-kl", _reverse, problem, group_size, scaled=True)


def grpo_mean_k3(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for scaled advantages and w = 1/L, `[S, N]`, nats; see `grpo_token_k3`."""
    response, length = problem.tokens("grpo-mean-k3")

    def target(response: Tensor, log_prior: Tensor, reward: Tensor, share: Tensor) -> Tensor:
        tree = TokenTree(response)

        def log_guide(reward: Tensor, width: float) -> Tensor:
            def at(centre: float) -> Tensor:
                centred = (reward - centre) * share
                return tree.log_guide(_forward, log_prior, centred, width * share)

            def excess(centre: float) -> float:
                return (at(centre).exp() * reward).sum().item() - centre

            if group_size is not None:
                return at(0.0)  # the advantages of a group have the mean 0
            return at(root(excess, reward.amin().item(), reward.amax().item()))

        return at_own_scale(
            log_guide, log_prior, reward, beta=problem.beta, group_size=group_size, grid=GRID
        )

    return by_prompt(target, response, problem.log_prior, problem.reward, 1 / length.double())


def _target(
    name: str,
    step: Step,
    problem: Problem,
    group_size: int | None,
    *,
    scaled: bool = False,
    grid: int = 1000,
) -> Tensor:
    response, _ = problem.tokens(name)

    def target(response: Tensor, log_prior: Tensor, reward: Tensor) -> Tensor:
        tree = TokenTree(response)

        def log_guide(reward: Tensor, width: float) -> Tensor:
            return tree.log_guide(step, log_prior, reward, torch.full_like(reward, width))

        if not scaled:
            return log_guide(reward, of_group(problem.beta, group_size))
        return at_own_scale(
            log_guide, log_prior, reward, beta=problem.beta, group_size=group_size, grid=grid
        )

    return by_prompt(target, response, problem.log_prior, problem.reward)


def _forward(log_prior: Tensor, value: Tensor, penalty: Tensor) -> Tensor:
    """log q of one token, `[C, M]`: q (Q - w) + w p0 = c q for each child, w its penalty."""
    return forward_kl_of(log_prior, value - penalty, penalty)


def _reverse(log_prior: Tensor, value: Tensor, penalty: Tensor) -> Tensor:
    """log q of one token, `[C, M]`."""
    return (log_prior + value / penalty).log_softmax(0)

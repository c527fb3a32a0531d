"""Penalties on the KL of each token, as trainers compute them, with and without scaled advantages.

    update      E_q[w sum_t (A - beta d_t) grad log q_t],   q_t = q(x_t | x_<t)
    forward     d_t = 1 - p0_t/q_t,   the estimator k3 of the KL as a loss
    reverse     sum_t d_t grad log q_t has the mean sum_t grad KL(q_t || p0_t), x_<t held fixed

At each prefix h this is the update of one token v with the reward Q(h, v) = E_q[r | h, v] (derived
here; see `TokenTree`), so that for A = r - E_q r and w = 1

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

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from inference.roots import root
from inference.targets.fixed_points.penalties import forward_kl_of
from inference.targets.fixed_points.problem import Problem, by_prompt
from inference.targets.fixed_points.scaled_advantages import at_own_scale, of_group

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""log q of the children of M prefixes, `[C, M]`, from log p0, Q and the penalty, `[C, M]` each."""
GRID = 100  # number of values of D between which a root is bracketed, where Lambda takes bisections


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


class TokenTree:
    """The prefixes of S responses `[S, T]`, a level for each number of tokens.

    At a prefix h, reached with probability q(h), the update of q(. | h) is that of one token with
    the reward Q(h, v) = E_q[r | h, v], if the penalty of later tokens has no gradient at h, and no
    part in the reward. Targets are computed from the ends of responses to the prompt.
    """

    def __init__(self, response: Tensor) -> None:
        prefixes = [response[:, :t] for t in range(1, response.shape[1] + 1)]
        root = response.new_zeros(len(response))
        index = [root, *(prefix.unique(dim=0, return_inverse=True)[1] for prefix in prefixes)]
        self.leaf = index[-1]
        """Number of each response among the prefixes of T tokens, `[S]`."""
        self.levels = [_Level(parent, child) for parent, child in pairwise(index)]

    def log_guide(self, step: Step, log_prior: Tensor, reward: Tensor, penalty: Tensor) -> Tensor:
        """Target of all responses, `[S]`, nats.

        Args:
            step: target of one token.
            log_prior: `[S]`, log p0, nats.
            reward: `[S]`.
            penalty: `[S]`, beta of each response; at a prefix, its mean under q counts.
        """
        log_guide = torch.zeros_like(reward)
        parts = [_by_number(self.leaf, part) for part in (log_prior, reward, penalty)]
        for level in reversed(self.levels):
            fills = (-torch.inf, 0.0, 1.0)
            mass, values, widths = map(level.table, parts, fills)
            log_mass = mass.logsumexp(0)
            # a prefix that p0 never gives has any step: the probability 0 is in a step before
            log_prior = (mass - log_mass).masked_fill(log_mass.isneginf(), 0.0).log_softmax(0)
            log_step = step(log_prior, values, widths)
            log_guide = log_guide + level.of_children(log_step)[level.child]
            prob = log_step.exp()
            parts = [log_mass, (prob * values).sum(0), (prob * widths).sum(0)]
        return log_guide


class _Level:
    """Children and parents, prefixes of t + 1 and of t tokens: a table has a column a parent."""

    def __init__(self, parent: Tensor, child: Tensor) -> None:
        self.child = child
        self._parent = _by_number(child, parent)  # [C]
        order = self._parent.argsort(stable=True)
        ordered = self._parent[order]
        rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
        self._place = torch.empty_like(order).index_put((order,), rank)
        self._shape = (int(self._place.max()) + 1, int(self._parent.max()) + 1)

    def table(self, values: Tensor, fill: float) -> Tensor:
        """Values of children `[C]` in the columns of their parents, filled up with one number."""
        table = values.new_full(self._shape, fill)
        return table.index_put((self._place, self._parent), values)

    def of_children(self, table: Tensor) -> Tensor:
        """Values of the children, `[C]`, from a table."""
        return table[self._place, self._parent]


def _by_number(index: Tensor, values: Tensor) -> Tensor:
    """Values `[S]` that agree wherever the numbers `[S]` do, by number, `[C]`."""
    table = values.new_zeros(int(index.max()) + 1)
    return table.index_put((index,), values)

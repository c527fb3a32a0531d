"""GRPO with the estimator k3 of the KL as a loss, token by token, as trainers compute it.

    update      E_q[sum_t (A + beta (p0_t/q_t - 1)) grad log q_t],   p0_t = p0(x_t | x_<t)
    target      q(v | h) = D p0(v | h) / (Lambda(h) - Q(h, v)),   D = beta sd_q r

At a prefix h, reached with probability q(h), the update of q(. | h) is the one of `grpo_k3` with
the reward Q(h, v) = E_q[r | h, v]: the forward-KL penalty of one token, since the penalty of later
tokens has no gradient at h, and no value in the reward. Summed over v, Lambda(h) - D = E_q[r | h].
So the target is computed from the ends of the responses back to the prompt. No closed form is known
to the authors of this file in the literature. With the sum over tokens divided by the length of
the response, the weights of the prefixes differ, and the target is another.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.forward_kl import forward_kl_of
from inference.targets.fixed_points.grpo_k3 import at_own_spread
from inference.targets.fixed_points.problem import Problem


def grpo_token_k3(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats: the solution with the largest D, which is the nearest to p0."""
    response, _ = problem.tokens("grpo-token-k3")

    def column(n: int) -> Tensor:
        tree, reward = _Tree(response[:, n]), problem.reward[:, n]

        def log_guide(width: float) -> Tensor:
            return tree.log_guide(problem.log_prior[:, n], reward, width)

        return at_own_spread(log_guide, reward, problem.beta)

    return torch.stack([column(n) for n in range(problem.reward.shape[1])], 1)


class _Tree:
    """The prefixes of S responses `[S, T]`, a level for each number of tokens."""

    def __init__(self, response: Tensor) -> None:
        prefixes = [response[:, :t] for t in range(1, response.shape[1] + 1)]
        root = response.new_zeros(len(response))
        self.index = [root, *(prefix.unique(dim=0, return_inverse=True)[1] for prefix in prefixes)]
        """Number of the prefix of each response, `[S]`, by level."""

    def log_guide(self, log_prior: Tensor, reward: Tensor, width: float) -> Tensor:
        """log q of all responses, `[S]`, nats, for one D."""
        total = torch.zeros_like(reward)
        log_mass, value = log_prior, reward  # of the responses, then of their prefixes
        for level in range(len(self.index) - 1, 0, -1):
            child, parent = self.index[level], self.index[level - 1]
            if level == len(self.index) - 1:
                log_mass, value = _by_number(child, log_prior), _by_number(child, reward)
            parent_of = _by_number(child, parent)  # [C]
            place = _places(parent_of)
            shape = (int(place.max()) + 1, int(parent_of.max()) + 1)
            table = log_mass.new_full(shape, -torch.inf)
            table[place, parent_of] = log_mass
            values = torch.zeros_like(table)
            values[place, parent_of] = value
            log_mass = table.logsumexp(0)
            widths = log_mass.new_full(log_mass.shape, width)
            log_step, ceiling = forward_kl_of(table - log_mass, values, widths)
            total += log_step[place, parent_of][child]
            value = ceiling - width
        return total


def _by_number(index: Tensor, values: Tensor) -> Tensor:
    """Values `[S]` that agree wherever the numbers `[S]` do, by number, `[C]`."""
    table = values.new_zeros(int(index.max()) + 1)
    return table.index_put((index,), values)


def _places(parent: Tensor) -> Tensor:
    """Place of each child among the children of the same parent, `[C]`."""
    order = parent.argsort(stable=True)
    ordered = parent[order]
    first = torch.searchsorted(ordered, ordered)
    return torch.empty_like(parent).index_put((order,), torch.arange(len(parent)) - first)

"""Fixed points of updates token by token, computed from the ends of responses to the prompt.

At a prefix h, reached with probability q(h), the update of q(. | h) is that of one token with the
reward Q(h, v) = E_q[r | h, v], if the penalty of later tokens has no gradient at h, and no part in
the reward.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""log q of the children of M prefixes, `[C, M]`, from log p0, Q and the penalty, `[C, M]` each."""


class TokenTree:
    """The prefixes of S responses `[S, T]`, a level for each number of tokens."""

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
            log_step = step(mass - log_mass, values, widths)
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

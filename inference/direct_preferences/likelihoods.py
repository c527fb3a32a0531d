"""Likelihoods of outcomes, given two rewards over beta: DPO and its relatives.

With h = r(first)/beta - r(second)/beta, for a first response that is preferred:

| name | log-likelihood | source |
|---|---|---|
| `dpo` | log sigmoid(beta h), Bradley and Terry | arXiv 2305.18290 |
| `cdpo` | (1 - e) log sigmoid(beta h) + e log sigmoid(-beta h), label smoothing | Mitchell 2023 |
| `ipo` | -(h - 1/(2 beta))^2, a normal distribution | arXiv 2310.12036 |
| `exo` | -KL(Ber(sigmoid(beta h)), Ber(1 - e)), the reverse of `cdpo` | arXiv 2402.00856 |
| `slic` | -max(0, 1 - beta h), a hinge; no normalised likelihood | arXiv 2305.10425 |

A tie is half a preference for each. With label noise or a tie of its own probability, pass
`bradley_terry(flip=..., tie_strength=...)`, the likelihood of `model.preferences`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from model.common.checks import finite
from model.preferences import FIRST, TIE, log_outcome

Likelihood = Callable[[Tensor, Tensor, float], Tensor]
"""Function of rewards over beta `[2, C]`, outcomes `[C]` and beta: log-likelihoods `[C]`, nats."""
SMOOTHING = 0.1
"""Default share of reversed labels of `cdpo`, and of the judge of `exo`."""


def bradley_terry(*, flip: float = 0.0, tie_strength: float = 0.0) -> Likelihood:
    """Likelihood of Bradley and Terry, with label noise and ties as in `model.preferences`."""

    def likelihood(rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        log_prob = log_outcome(beta * (rewards[0] - rewards[1]), flip, tie_strength)
        return log_prob.gather(-1, outcome[:, None]).squeeze(-1)

    return likelihood


def of_preference(score: Callable[[Tensor, float], Tensor]) -> Likelihood:
    """Likelihood from the score of h for a preferred first response."""

    def likelihood(rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        h = rewards[0] - rewards[1]
        first, second = score(h, beta), score(-h, beta)
        tied = (first + second) / 2
        return torch.where(outcome == TIE, tied, torch.where(outcome == FIRST, first, second))

    return likelihood


def smoothed(smoothing: float = SMOOTHING) -> Likelihood:
    """DPO with label smoothing."""
    share = finite("smoothing", smoothing, at_least=0, below=0.5)

    def score(h: Tensor, beta: float) -> Tensor:
        return (1 - share) * logsigmoid(beta * h) + share * logsigmoid(-beta * h)

    return of_preference(score)


def exo(smoothing: float = SMOOTHING) -> Likelihood:
    """EXO for two responses: minus the KL from the guide's preference to the smoothed label."""
    share = finite("smoothing", smoothing, above=0, below=0.5)

    def score(h: Tensor, beta: float) -> Tensor:
        log_p, log_not = logsigmoid(beta * h), logsigmoid(-beta * h)
        label, other = h.new_tensor(1 - share).log(), h.new_tensor(share).log()
        return -(log_p.exp() * (log_p - label) + log_not.exp() * (log_not - other))

    return of_preference(score)


LIKELIHOODS: dict[str, Likelihood] = {
    "dpo": of_preference(lambda h, beta: logsigmoid(beta * h)),
    "cdpo": smoothed(),
    "ipo": of_preference(lambda h, beta: -((h - 1 / (2 * beta)) ** 2)),
    "exo": exo(),
    "slic": of_preference(lambda h, beta: -relu(1 - beta * h)),
}
"""Likelihoods by name."""

"""Surrogates of GRPO: the term of each token whose gradient follows the advantage A.

    grad gain_t = W_t A grad log q_t,   rho_t = q_t/a_t,   x ~ a, the guide as it drew the batch

| name | W_t | limits of | source |
|---|---|---|---|
| `token` | rho_t, 0 beyond the clip | rho_t - 1 | PPO, arXiv 1707.06347 |
| `response` | geometric mean of the rho_t, 0 beyond the clip | mean - 1 | GSPO, arXiv 2507.18071 |
| `geometric` | the same with each log rho_t clipped first | log rho_t | GMPO, arXiv 2507.20673 |
| `constant` | rho_t, at most 1 + above | rho_t - 1, above alone | CISPO, arXiv 2506.13585; TIS |
| `masked` | rho_t, 0 outside 1 - below to 1 + above | rho_t - 1 | IcePop, arXiv 2510.18855 |
| `divergence` | rho_t, 0 beyond the clip | q_t - a_t | DPPO, arXiv 2602.04879 |
| `soft` | 4 rho_t s (1 - s), s = sigmoid(tau (rho_t - 1)) | - | SAPO, arXiv 2511.20347 |
| `tapered` | 1 for A > 0, else the ratio of the response, at most 1 | - | TOPR, arXiv 2503.14286 |

"Beyond the clip" is above for A > 0 and below for A < 0, as the gain is then no better for more.
All W_t are 1 where q = a: with one step on draws of the guide, not of an engine, all names have
one gradient, and the same fixed points. `geometric` and `response` share their gain among the
tokens of the response, whose mean, `average="response"`, is the gain of the paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Limits = tuple[float, float]
"""Largest size, below and above, of the number in the column "limits of"."""
TEMPERATURES = 1.0, 1.05
"""SAPO's tau for advantages above 0, and for others."""


class Tokens(NamedTuple):
    """Tokens of responses, `[K, N, T]`.

    Attributes:
        log_ratio: log q - log a, nats, with gradient, 0 at padding.
        log_proposal: log a, nats.
        advantage: A, `[K, N, 1]`.
        is_token: False at padding.
    """

    log_ratio: Tensor
    log_proposal: Tensor
    advantage: Tensor
    is_token: Tensor

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the tokens of each response, at every token."""
        value = value.masked_fill(~self.is_token, 0.0)
        return (value.sum(-1, keepdim=True) / self.is_token.sum(-1, keepdim=True)).expand_as(value)

    def log_ratio_of_support(self) -> Tensor:
        """log rho_t, and 0 without gradient where the guide cannot draw a token of an engine."""
        return self.log_ratio.masked_fill(self.log_ratio == -torch.inf, 0.0)

    def clipped(self, value: Tensor, low: float, high: float) -> Tensor:
        """The value within limits, and beyond them where A is no better for it."""
        return torch.where(self.advantage > 0, value.clamp(max=high), value.clamp(min=low))


class Surrogate(NamedTuple):
    """Entry of `SURROGATES`.

    Attributes:
        gain: function of tokens and limits, None for no clip: the gain of each, `[K, N, T]`.
        has_limits: False if the gain ignores the limits.
        is_ratio: True if the gain is a ratio times A, on which a dual clip is a bound.
    """

    gain: Callable[[Tokens, Limits | None], Tensor]
    has_limits: bool = True
    is_ratio: bool = True


def token(tokens: Tokens, clip: Limits | None) -> Tensor:
    """PPO's ratio of each token."""
    return _ratio(tokens, tokens.log_ratio, clip)


def response(tokens: Tokens, clip: Limits | None) -> Tensor:
    """GSPO's ratio of the response."""
    return _ratio(tokens, tokens.mean(tokens.log_ratio), clip)


def _ratio(tokens: Tokens, log_ratio: Tensor, clip: Limits | None) -> Tensor:
    ratio = log_ratio.exp()
    if clip is not None:
        ratio = tokens.clipped(ratio, 1 - clip[0], 1 + clip[1])
    return ratio * tokens.advantage


def geometric(tokens: Tokens, clip: Limits | None) -> Tensor:
    """GMPO's mean of clipped ratios; limits of log rho_t."""
    log_ratio = tokens.log_ratio
    if clip is not None:
        log_ratio = tokens.clipped(log_ratio, -clip[0], clip[1])
    return tokens.mean(log_ratio).exp() * tokens.advantage


def constant(tokens: Tokens, clip: Limits | None) -> Tensor:
    """CISPO's weight without gradient."""
    weight = tokens.log_ratio.detach().exp()
    if clip is not None:
        weight = weight.clamp(max=1 + clip[1])
    return weight * tokens.advantage * tokens.log_ratio_of_support()


def masked(tokens: Tokens, clip: Limits | None) -> Tensor:
    """IcePop's weight of tokens on which q and a agree; the others have none."""
    ratio = tokens.log_ratio.exp()
    if clip is not None:
        within = (ratio >= 1 - clip[0]) & (ratio <= 1 + clip[1])
        ratio = ratio.masked_fill(~within, 0.0)
    return ratio * tokens.advantage


def divergence(tokens: Tokens, clip: Limits | None) -> Tensor:
    """DPPO's ratio, 0 where the total variation of token and others is large; no cap on rho_t."""
    ratio = tokens.log_ratio.exp()
    if clip is not None:
        change = (ratio.detach() - 1) * tokens.log_proposal.exp()  # q - a
        beyond = torch.where(tokens.advantage > 0, change > clip[1], change < -clip[0])
        ratio = ratio.masked_fill(beyond, 0.0)
    return ratio * tokens.advantage


def soft(tokens: Tokens, clip: Limits | None) -> Tensor:
    """SAPO's gate in place of the clip."""
    ratio = tokens.log_ratio.exp()
    above, other = (4 / tau * torch.sigmoid(tau * (ratio - 1)) for tau in TEMPERATURES)
    return torch.where(tokens.advantage > 0, above, other) * tokens.advantage


def tapered(tokens: Tokens, clip: Limits | None) -> Tensor:
    """TOPR's weight of a response without gradient; no clip."""
    whole = tokens.log_ratio.detach().sum(-1, keepdim=True).exp().clamp(max=1.0)
    weight = torch.where(tokens.advantage < 0, whole, 1.0)
    return weight * tokens.advantage * tokens.log_ratio_of_support()


SURROGATES = {
    "token": Surrogate(token),
    "response": Surrogate(response),
    "geometric": Surrogate(geometric),
    "constant": Surrogate(constant, is_ratio=False),
    "masked": Surrogate(masked),
    "divergence": Surrogate(divergence),
    "soft": Surrogate(soft, has_limits=False, is_ratio=False),
    "tapered": Surrogate(tapered, has_limits=False, is_ratio=False),
}
"""Surrogates by name."""

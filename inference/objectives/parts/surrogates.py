"""Surrogates of GRPO: the term of each token whose gradient follows the advantage A.

    grad gain_t = W_t A grad log q_t,   rho_t = q_t/a_t,   x ~ a, the guide as it drew the batch

| name | W_t | limits of | source |
|---|---|---|---|
| `token` | rho_t, 0 beyond the clip | rho_t - 1 | PPO, arXiv 1707.06347 |
| `response` | geometric mean of the rho_t, 0 beyond the clip | mean - 1 | GSPO, arXiv 2507.18071 |
| `geometric` | the same with each log rho_t clipped first | log rho_t | GMPO, arXiv 2507.20673 |
| `constant` | rho_t, at most 1 + above | rho_t - 1, above alone | CISPO, arXiv 2506.13585; TIS |
| `masked` | rho_t, 0 outside 1 - below to 1 + above | rho_t - 1 | IcePop, arXiv 2510.18855 |
| `rejected` | rho_t, 0 in a response beyond the limits | mean log a_t/q_t | verl's `rollout_rs` |
| `response-constant` | ratio of the response, at most 1 + above | ratio - 1, above alone | TIS |
| `response-masked` | the same, 0 outside 1 - below to 1 + above | ratio - 1 | MIS |
| `divergence` | rho_t, 0 beyond the clip | q_t - a_t | DPPO, arXiv 2602.04879 |
| `binary-kl` | rho_t, 0 beyond the clip | KL of a_t, 1 - a_t from q_t, 1 - q_t | DPPO |
| `clip-cov` | that of `token`, 0 for few tokens of high covariance | rho_t - 1 | 2505.22617 |
| `kl-cov` | rho_t, less the sign of log rho_t over A for such tokens | - | 2505.22617 |
| `soft` | 4 rho_t s (1 - s), s = sigmoid(tau (rho_t - 1)) | - | SAPO, arXiv 2511.20347 |
| `tapered` | 1 for A > 0, else the ratio of the response, at most 1 | - | TOPR, arXiv 2503.14286 |
| `kernel` | w^k exp(lambda (1 - w)), w the ratio of the response | - | VESPO, arXiv 2602.10693 |
| `quadratic` | 1 - weight log rho_t / A | - | `dro` of verl and Tinker; Kimi, arXiv 2501.12599 |

"Beyond the clip" is above for A > 0 and below for A < 0, as the gain is then no better for more.
All W_t but those of `clip-cov` are 1 where q = a: with one step on draws of the guide, not of an
engine, all other names have one gradient, and the same fixed points. `geometric` and `response`
share their gain among the tokens of the response, whose mean, `average="response"`, is the gain of
the paper.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inference.kl_estimators import KL_ESTIMATORS
from model.common.checks import finite, one_of

Limits = tuple[float, float]
"""Largest size, below and above, of the number in the column "limits of"."""
TEMPERATURES = 1.0, 1.05  # SAPO's tau for advantages above 0, and for others
KERNELS = (2.0, 3.0), (3.0, 2.0)
"""VESPO's power k and rate lambda for advantages of 0 and above, and for others."""
SHARE = 2e-4
"""Share of the tokens of a step that `clip-cov` drops and `kl-cov` holds; at least one token."""
COVARIANCES = 1.0, 5.0  # covariances between which `clip-cov` chooses the tokens
ROUNDING = 1e-9  # size below which a covariance is 0 for `kl-cov`
RARE = -1e4  # log rho_t in a covariance, nats, of a token of an engine that the guide cannot draw


class Tokens(NamedTuple):
    """Tokens of responses, `[K, N, T]`."""

    log_ratio: Tensor  # log q - log a, nats, with gradient, 0 at padding
    log_proposal: Tensor  # log a, nats
    advantage: Tensor  # A, `[K, N, 1]`
    is_token: Tensor  # False at padding

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the tokens of each response, at every token."""
        value = value.masked_fill(~self.is_token, 0.0)
        return (value.sum(-1, keepdim=True) / self.is_token.sum(-1, keepdim=True)).expand_as(value)

    def whole(self) -> Tensor:
        """log of the ratio of each response, without gradient, `[K, N, 1]`."""
        return self.log_ratio.detach().sum(-1, keepdim=True)

    def weighed(self, weight: Tensor) -> Tensor:
        """Gain whose W_t is a weight without gradient."""
        return weight * self.advantage * self.log_ratio_of_support()

    def log_ratio_of_support(self) -> Tensor:
        """log rho_t, and 0 without gradient where the guide cannot draw a token of an engine."""
        return self.log_ratio.masked_fill(self.log_ratio == -torch.inf, 0.0)

    def covariance(self) -> Tensor:
        """(A - mean A) (log q_t - mean log q_t) of each token, over all tokens, -inf at padding."""
        log_guide = self.log_ratio.detach().clamp(min=RARE) + self.log_proposal
        factors = self.advantage.expand_as(log_guide), log_guide
        first, second = (value - value[self.is_token].mean() for value in factors)
        return (first * second).masked_fill(~self.is_token, -torch.inf)

    def highest(self, priority: Tensor, share: float) -> Tensor:
        """Mask of the share of tokens of the highest priority, at least one token; of -inf none."""
        num = max(1, int(share * self.is_token.sum().item()))
        is_highest = torch.zeros_like(priority, dtype=torch.bool)
        is_highest.view(-1)[priority.flatten().topk(num).indices] = True
        return is_highest & (priority > -torch.inf)

    def clipped(self, value: Tensor, low: float, high: float) -> Tensor:
        """The value within limits, and beyond them where A is no better for it."""
        return torch.where(self.advantage > 0, value.clamp(max=high), value.clamp(min=low))


Gain = Callable[[Tokens, Limits | None], Tensor]
"""Function of tokens and limits, None for no clip: the gain of each token, `[K, N, T]`."""


class Surrogate(NamedTuple):
    """Entry of `SURROGATES`."""

    gain: Gain
    has_limits: bool = True  # False if the gain ignores the limits
    is_ratio: bool = True  # if the gain is a ratio times A, on which a dual clip is a bound


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
    return tokens.weighed(weight)


def response_constant(tokens: Tokens, clip: Limits | None) -> Tensor:
    """TIS of responses: their ratio, truncated above, without gradient."""
    weight = tokens.whole().exp()
    return tokens.weighed(weight if clip is None else weight.clamp(max=1 + clip[1]))


def response_masked(tokens: Tokens, clip: Limits | None) -> Tensor:
    """MIS: the ratio of responses on which q and a agree; the others have none."""
    weight = tokens.whole().exp()
    if clip is not None:
        weight = weight.masked_fill((weight < 1 - clip[0]) | (weight > 1 + clip[1]), 0.0)
    return tokens.weighed(weight)


def masked(tokens: Tokens, clip: Limits | None) -> Tensor:
    """IcePop's weight of tokens on which q and a agree; the others have none."""
    ratio = tokens.log_ratio.exp()
    if clip is not None:
        within = (ratio >= 1 - clip[0]) & (ratio <= 1 + clip[1])
        ratio = ratio.masked_fill(~within, 0.0)
    return ratio * tokens.advantage


def rejected(
    tokens: Tokens, clip: Limits | None, *, estimator: str = "k1", over: str = "mean"
) -> Tensor:
    """The ratio of each token, 0 in all responses whose KL(a || q) is estimated beyond the limits.

    The limits are nats of the estimate of a name in `KL_ESTIMATORS`, as the `mean`, `sum` or `max`
    over the tokens of the response. Only k1 can be below 0.
    """
    nats = KL_ESTIMATORS[one_of("estimator", estimator, KL_ESTIMATORS)](-tokens.log_ratio.detach())
    nats = nats.masked_fill(~tokens.is_token, 0.0)
    of_response = {
        "mean": tokens.mean(nats),
        "sum": nats.sum(-1, keepdim=True),
        "max": nats.masked_fill(~tokens.is_token, -math.inf).amax(-1, keepdim=True),
    }[one_of("over", over, ("mean", "sum", "max"))]
    gain = tokens.log_ratio.exp() * tokens.advantage
    if clip is None:
        return gain
    return gain.masked_fill((of_response < -clip[0]) | (of_response > clip[1]), 0.0)


def divergence(tokens: Tokens, clip: Limits | None) -> Tensor:
    """DPPO's ratio, 0 where the total variation of token and others is large; no cap on rho_t."""
    change = tokens.log_ratio.detach().expm1() * tokens.log_proposal.exp()  # q - a
    return _within(tokens, change, clip)


def binary_kl(tokens: Tokens, clip: Limits | None) -> Tensor:
    """DPPO's ratio, 0 where the KL of token and others is large; no cap on rho_t."""
    log_ratio = tokens.log_ratio.detach()
    a, q = tokens.log_proposal.exp(), (log_ratio + tokens.log_proposal).exp()
    others = [(1 - each).clamp(min=1e-8) for each in (a, q)]
    nats = others[0] * (others[0] / others[1]).log() - a * log_ratio
    return _within(tokens, log_ratio.sign() * nats, clip)


def _within(tokens: Tokens, change: Tensor, clip: Limits | None) -> Tensor:
    ratio = tokens.log_ratio.exp()
    if clip is not None:
        beyond = torch.where(tokens.advantage > 0, change > clip[1], change < -clip[0])
        ratio = ratio.masked_fill(beyond, 0.0)
    return ratio * tokens.advantage


def clip_cov(
    tokens: Tokens,
    clip: Limits | None,
    *,
    share: float = SHARE,
    covariances: tuple[float, float] = COVARIANCES,
) -> Tensor:
    """PPO's ratio, 0 for a few random tokens of high covariance that the clip leaves."""
    gain, covariance = token(tokens, clip), tokens.covariance()
    is_free = gain == tokens.log_ratio.exp() * tokens.advantage
    is_high = (covariance > covariances[0]) & (covariance < covariances[1]) & is_free
    chance = torch.rand_like(covariance).masked_fill(~is_high, -torch.inf)
    return gain.masked_fill(tokens.highest(chance, share), 0.0)


def kl_cov(
    tokens: Tokens, clip: Limits | None, *, share: float = SHARE, weight: float = 1.0
) -> Tensor:
    """The ratio without a clip, less weight |log rho_t| for few tokens of the highest covariance.

    Equal advantages, whose covariances are 0 up to rounding, hold no token.
    """
    covariance = tokens.covariance()
    covariance = covariance.masked_fill(covariance.abs() < ROUNDING, -torch.inf)
    penalty = tokens.highest(covariance, share) * tokens.log_ratio_of_support().abs()
    return tokens.log_ratio.exp() * tokens.advantage - weight * penalty


def soft(
    tokens: Tokens, clip: Limits | None, *, temperatures: tuple[float, float] = TEMPERATURES
) -> Tensor:
    """SAPO's gate in place of the clip."""
    ratio = tokens.log_ratio.exp()
    above, other = (4 / tau * torch.sigmoid(tau * (ratio - 1)) for tau in temperatures)
    return torch.where(tokens.advantage > 0, above, other) * tokens.advantage


def quadratic(tokens: Tokens, clip: Limits | None, *, weight: float = 0.1) -> Tensor:
    """A log rho_t - weight (log rho_t)^2 / 2: a pull back to a in place of clip and ratio.

    The steps on a batch have no importance weight. On a batch without end, a rich guide ends at
    log rho_t + c rho_t = E_a[A | x_<=t]/weight at each prefix, c such that q_t sums to 1: the
    target `squared-residual` of one token (derived here, and enumerated in the tests).
    """
    log_ratio = tokens.log_ratio_of_support()
    pull = finite("weight", weight, at_least=0) / 2 * log_ratio.square()
    return tokens.advantage * log_ratio - pull


def tapered(tokens: Tokens, clip: Limits | None) -> Tensor:
    """TOPR's weight of a response without gradient; no clip."""
    return tokens.weighed(
        torch.where(tokens.advantage < 0, tokens.whole().exp().clamp(max=1.0), 1.0)
    )


def kernel(
    tokens: Tokens, clip: Limits | None, *, kernels: tuple[Limits, Limits] = KERNELS
) -> Tensor:
    """VESPO's weight of a response, largest at a ratio of k/lambda; no clip."""
    log_weight = tokens.whole()
    good, other = (
        (power * log_weight + rate * (1 - log_weight.exp())).exp() for power, rate in kernels
    )
    return tokens.weighed(torch.where(tokens.advantage >= 0, good, other))


SURROGATES = {
    "token": Surrogate(token),
    "response": Surrogate(response),
    "geometric": Surrogate(geometric),
    "constant": Surrogate(constant, is_ratio=False),
    "masked": Surrogate(masked),
    "rejected": Surrogate(rejected),
    "response-constant": Surrogate(response_constant, is_ratio=False),
    "response-masked": Surrogate(response_masked, is_ratio=False),
    "divergence": Surrogate(divergence),
    "binary-kl": Surrogate(binary_kl),
    "clip-cov": Surrogate(clip_cov, is_ratio=False),
    "kl-cov": Surrogate(kl_cov, has_limits=False, is_ratio=False),
    "soft": Surrogate(soft, has_limits=False, is_ratio=False),
    "quadratic": Surrogate(quadratic, has_limits=False, is_ratio=False),
    "tapered": Surrogate(tapered, has_limits=False, is_ratio=False),
    "kernel": Surrogate(kernel, has_limits=False, is_ratio=False),
}
"""Surrogates by name."""


def surrogate_of(gain: Gain) -> Surrogate:
    """Entry of a function: that of its name, also if it is a `partial`; else one with limits."""
    for entry in SURROGATES.values():
        if entry.gain is getattr(gain, "func", gain):
            return entry._replace(gain=gain)
    return Surrogate(gain, is_ratio=False)

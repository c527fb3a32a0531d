"""Likelihoods of outcomes, given two rewards over beta: DPO and its relatives.

With h = r(first)/beta - r(second)/beta, for a first response that is preferred:

| name | log-likelihood | source |
|---|---|---|
| `dpo` | log sigmoid(beta h), Bradley and Terry | arXiv 2305.18290 |
| `cdpo` | (1 - e) log sigmoid(beta h) + e log sigmoid(-beta h), label smoothing | Mitchell 2023 |
| `rdpo` | ((1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)) / (1 - 2 e) | arXiv 2403.00409 |
| `margin` | log sigmoid(beta h - gamma), a margin; no normalised likelihood | arXiv 2405.14734 |
| `ipo` | -(h - 1/(2 beta))^2, a normal distribution | arXiv 2310.12036 |
| `exo` | -KL(Ber(sigmoid(beta h)), Ber(1 - e)), the reverse of `cdpo` | arXiv 2402.00856 |
| `slic` | -max(0, 1 - beta h), a hinge; no normalised likelihood | arXiv 2305.10425 |
| `dpop` | log sigmoid(beta (h - weight max(0, -r(first)/beta))), DPO-Positive | arXiv 2402.13228 |
| `sppo` | -(r(first)/beta - 1/(2 beta))^2 - (r(second)/beta + 1/(2 beta))^2 | arXiv 2405.00675 |
| `apo-down` | sigmoid(beta h) - 1 - sigmoid(r(first)), see `anchored_down` | arXiv 2408.06266 |
| `discopop` | log sigmoid(beta h) below h = 0, -exp(-beta h) above, blended | arXiv 2406.08414 |
| `orpo` | log P(first) + beta log sigmoid(difference of log-odds of P), see `odds` | 2403.07691 |
| `nca` | log sigmoid(r(first)) + log sigmoid(-r)/2 of both, see `noise_contrast` | 2402.05369 |
| `dr-dpo`, `aot` | of all pairs of a step together, see `of_batch.py` | 2407.07880, 2406.05882 |
| `with_chosen(...)` | log sigmoid(beta h) + weight r(first)/beta, RPO and CPO | see there |
| `kto` | sigmoid(beta (r/beta - z)) - 1 of a desirable response, see `kto` | arXiv 2402.01306 |
| `bco` | log sigmoid(r - d) of a desirable response, see `bco` | arXiv 2404.04656 |
| `plackett-luce`, `info-nca` | of lists of responses, see `of_list.py` | 2305.18290, 2402.05369 |

A tie is half a preference for each; with `plackett-luce` it is an order that was not recorded, and
has probability 1. With label noise or a tie of its own probability, pass
`bradley_terry(flip=..., tie_strength=...)`, the likelihood of `model.preferences`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from inference.direct_preferences.labels import Likelihood, bco, kto, pair
from inference.direct_preferences.of_batch import OfBatch, quantiles, robust_mean
from inference.direct_preferences.of_list import info_nca, plackett_luce
from model.common.checks import finite
from model.preferences import FIRST, TIE, log_outcome

SMOOTHING = 0.1  # default share of reversed labels of `cdpo` and `rdpo`, and of the judge of `exo`
MARGIN = 0.5  # default gamma of `margin`, nats
TAU = 0.05  # temperature of the blend of `discopop`
EXPONENT = 80.0
"""Largest exponent of a reward or score, nats. Above, a response has no gradient, and not NaN."""


@dataclass(frozen=True)
class OfDifference:
    """A likelihood that reads h alone, the difference of the two rewards over beta.

    Attributes:
        of_outcome: function of h `[C]`, outcomes `[C]` and beta: log-likelihoods `[C]`, nats.
    """

    of_outcome: Callable[[Tensor, Tensor, float], Tensor]

    def __call__(self, rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        first, second = pair(rewards)
        return self.of_outcome(first - second, outcome, beta)


def bradley_terry(*, flip: float = 0.0, tie_strength: float = 0.0) -> Likelihood:
    """Likelihood of Bradley and Terry, with label noise and ties as in `model.preferences`."""

    def of_outcome(h: Tensor, outcome: Tensor, beta: float) -> Tensor:
        log_prob = log_outcome(beta * h, flip, tie_strength)
        return log_prob.gather(-1, outcome[:, None]).squeeze(-1)

    return OfDifference(of_outcome)


def of_preference(score: Callable[[Tensor, float], Tensor]) -> Likelihood:
    """Likelihood from the score of h for a preferred first response."""
    return OfDifference(
        lambda h, outcome, beta: _by_outcome(score(h, beta), score(-h, beta), outcome)
    )


def of_chosen(score: Callable[[Tensor, Tensor, float], Tensor]) -> Likelihood:
    """Likelihood from the score of the rewards of a chosen and of a rejected response."""

    def likelihood(rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        one, other = pair(rewards)
        return _by_outcome(score(one, other, beta), score(other, one, beta), outcome)

    return likelihood


def _by_outcome(first: Tensor, second: Tensor, outcome: Tensor) -> Tensor:
    """The score of the preferred response, `[C]`; half of each for a tie."""
    tied = (first + second) / 2
    return torch.where(outcome == TIE, tied, torch.where(outcome == FIRST, first, second))


def with_chosen(weight: float = 1.0) -> Likelihood:
    """DPO's log-likelihood, and that of the chosen response itself, of a weight.

        log sigmoid(beta h) + weight log q(chosen)

    Without the prior, CPO (Xu et al. 2024, arXiv 2401.08417). With the prior, up to the constant
    log p0(chosen), RPO (Pang et al. 2024, arXiv 2404.19733) without its division of the second
    term by the length. No normalised likelihood.
    """
    share = finite("weight", weight, at_least=0)
    return of_chosen(
        lambda chosen, rejected, beta: logsigmoid(beta * (chosen - rejected)) + share * chosen
    )


def positive_dpo(weight: float = 50.0) -> Likelihood:
    """DPOP: DPO with a penalty for a chosen response that is rarer than under p0."""
    share = finite("weight", weight, at_least=0)

    def score(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
        return logsigmoid(beta * (chosen - rejected - share * relu(-chosen)))

    return of_chosen(score)


def noise_contrast(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """NCA's score: a classifier of chosen responses against draws of p0, with r as the logit.

        log sigmoid(r(chosen)) + (log sigmoid(-r(chosen)) + log sigmoid(-r(rejected)))/2

    With beta 1, for pairs of draws of p0 without end, the target is q = p0 2 P(x beats y), y ~ p0.
    If the preferences are those of Bradley and Terry, this is soft best of two.
    """
    of_noise = logsigmoid(-beta * chosen) + logsigmoid(-beta * rejected)
    return logsigmoid(beta * chosen) + of_noise / 2


def anchored_down(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """APO-down's score, for pairs worse than the guide's own draws: the chosen falls as well.

    APO-zero, for pairs better than those draws, is `kto(reference=0.0)`.
    """
    return torch.sigmoid(beta * (chosen - rejected)) - 1 - torch.sigmoid(beta * chosen)


def pinned(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """SPPO's score of a pair, which pins log q/p0 of the chosen response and of the other.

    For pairs of draws of p0 without end, the target is `mean-mirror-descent` of the reward P(x
    beats y), y ~ p0.
    """
    pin = 1 / (2 * beta)
    return -((chosen - pin) ** 2) - (rejected + pin) ** 2


def discovered(h: Tensor, beta: float) -> Tensor:
    """DiscoPOP's score, which falls with h where h passes 0."""
    share = torch.sigmoid(beta * h / TAU)
    return (1 - share) * logsigmoid(beta * h) - share * (-beta * h).clamp(max=EXPONENT).exp()


def odds(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """ORPO's score: log P(chosen) + beta log sigmoid(log-odds of chosen less of rejected).

    P is the mean probability of a token, geometric, so that the rewards are log-probabilities of
    the guide: `PreferenceProgram(guide, None, beta=0.1, likelihood="orpo", per_token=True)`. For a
    rich guide the preferences alone have the target P(x) = sigmoid(r(x) + c), r the judge's reward.
    """
    if bool((torch.stack([chosen, rejected]) >= 0).any()):
        fix = "pass None for the prior, and per_token=True"
        raise ValueError(f"`orpo` got a reward of 0 or more, expected log-probabilities: {fix}")
    first, second = (log_p - (-torch.expm1(log_p)).log() for log_p in (chosen, rejected))
    return chosen + beta * logsigmoid(first - second)


def smoothed(smoothing: float = SMOOTHING) -> Likelihood:
    """DPO with label smoothing."""
    share = finite("smoothing", smoothing, at_least=0, below=0.5)

    def score(h: Tensor, beta: float) -> Tensor:
        return (1 - share) * logsigmoid(beta * h) + share * logsigmoid(-beta * h)

    return of_preference(score)


def robust(flip: float = SMOOTHING) -> Likelihood:
    """rDPO: DPO's log-likelihood in the mean over labels that are reversed with a probability.

    Both have the posterior of the judge's reward as their target: this, and
    `bradley_terry(flip=...)`. No normalised likelihood: the score of a pair that was judged once
    grows with h without limit, so that a rich guide has no optimum on finite data.
    """
    share = finite("flip", flip, at_least=0, below=0.5)

    def score(h: Tensor, beta: float) -> Tensor:
        expected = (1 - share) * logsigmoid(beta * h) - share * logsigmoid(-beta * h)
        return expected / (1 - 2 * share)

    return of_preference(score)


def margin(gamma: float = MARGIN) -> Likelihood:
    """DPO with a margin by which the preferred reward is to be the larger one, gamma nats.

    With a reward per token and no reference, SimPO: `PreferenceProgram(guide, None, beta=2.0,
    likelihood=margin(gamma), per_token=True)`.
    """
    nats = finite("gamma", gamma, at_least=0)
    return of_preference(lambda h, beta: logsigmoid(beta * h - nats))


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
    "rdpo": robust(),
    "margin": margin(),
    "ipo": of_preference(lambda h, beta: -((h - 1 / (2 * beta)) ** 2)),
    "exo": exo(),
    "slic": of_preference(lambda h, beta: -relu(1 - beta * h)),
    "dpop": positive_dpo(),
    "nca": of_chosen(noise_contrast),
    "sppo": of_chosen(pinned),
    "apo-down": of_chosen(anchored_down),
    "discopop": of_preference(discovered),
    "orpo": of_chosen(odds),
    "dr-dpo": robust_mean(),
    "aot": OfBatch(quantiles),
    "kto": kto(),
    "bco": bco(),
    "plackett-luce": plackett_luce,
    "info-nca": info_nca(),
}
"""Likelihoods by name."""

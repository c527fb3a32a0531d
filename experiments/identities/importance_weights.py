"""Importance weights q/a of draws of another distribution a: an engine, or the guide of before."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from experiments.identities.findings import either_order, exact, paired
from experiments.identities.gradients import token_scores
from experiments.identities.prefixes import next_token
from experiments.identities.world import World, cases, kl, mean_gradient
from experiments.shared.claims import Finding
from inference.objectives.parts.surrogates import SURROGATES, Limits, Tokens

ANGLE = "mean gradient, sine of the angle to that of the ELBO"
NOISE = "log of the noise"
SHARE, PROBABILITY = "share of dropped tokens", "mean probability of the dropped tokens"
CAP = 2.0
"""Largest weight of truncated and masked weights."""


class Draws:
    """Responses of a = p0 for a guide q, with log q/a of each token and response, in nats.

    The advantage of a response is log w less its mean under q, so that the mean gradient of the
    true weights is that of the ELBO.
    """

    def __init__(self, world: World, log_guide: Tensor) -> None:
        self.world, self.log_guide = world, log_guide
        self.places = range(world.truth.support.shape[-1])
        of_draw, of_guide = (
            torch.stack([next_token(world, log, t) for t in self.places])
            for log in (world.log_prior, log_guide)
        )
        self.log_draw, self.tokens = of_draw, of_guide - of_draw  # log a, log q/a, [T, S]
        self.whole = log_guide - world.log_prior  # [S]
        log_weight = world.log_joint - log_guide
        self.advantage = log_weight - log_guide.exp() @ log_weight
        self.is_good = self.advantage >= 0
        self.is_token = torch.tensor(self.places)[:, None] < world.length  # [T, S]
        self.scores = token_scores(world, log_guide)  # [T, S, S]

    def gradients(self, weight: Tensor) -> Tensor:
        """sum_t weight_t A grad log q_t of each response, `[S, S]`, for weights `[T, S]`, `[S]`."""
        coefficient = (weight * self.advantage).expand(len(self.places), -1)
        return torch.einsum("ts,tsl->sl", coefficient, self.scores)

    def mean(self, weight: Tensor) -> Tensor:
        """Mean gradient over draws of a, `[S]`."""
        return self.world.log_prior.exp() @ self.gradients(weight)

    def off(self, weight: Tensor) -> float:
        """Sine of the angle between the mean gradient and the gradient of the ELBO."""
        truth = mean_gradient(self.log_guide, self.log_guide, self.advantage)
        truth, mean = (each / each.norm() for each in (truth, self.mean(weight)))
        return (mean - (mean @ truth) * truth).norm().item()

    def noise(self, weight: Tensor) -> float:
        """Log of the noise of a draw over the squared mean gradient."""
        mean = self.mean(weight)
        squares = (self.gradients(weight) - mean).square().sum(1)
        return (self.world.log_prior.exp() @ squares / mean.square().sum()).log().item()

    def share_dropped(self, weight: Tensor) -> float:
        """Share of the drawn tokens that have weight 0."""
        share = self.world.log_prior.exp() * self.is_token
        return (share[weight == 0].sum() / share.sum()).item()

    def probability_dropped(self, weight: Tensor) -> float:
        """Mean of a_t over the drawn tokens that have weight 0."""
        share = self.world.log_prior.exp() * self.is_token * (weight == 0)
        return ((share * self.log_draw.exp()).sum() / share.sum()).item()

    def weights(self, name: str, clip: Limits | None) -> Tensor:
        """Weights of a surrogate of GRPO, `[T, S]`."""
        log_ratio = self.tokens.T[:, None].clone().requires_grad_()  # [S, 1, T]
        sign = torch.where(self.is_good, 1.0, -1.0).double()[:, None, None]
        is_token = self.is_token.T[:, None]
        tokens = Tokens(log_ratio, self.log_draw.T[:, None], sign, is_token)
        gain = SURROGATES[name].gain(tokens, clip).masked_fill(~is_token, 0.0).sum()
        (weight,) = torch.autograd.grad(gain, log_ratio)
        return (sign * weight)[:, 0].T


Weight = Callable[[Draws], Tensor]
"""Function of draws that returns weights, `[T, S]` or `[S]`."""
MEASURES: dict[str, Callable[[Draws, Tensor], float]] = {
    ANGLE: Draws.off,
    NOISE: Draws.noise,
    SHARE: Draws.share_dropped,
    PROBABILITY: Draws.probability_dropped,
}
"""Numbers of weights by their name in a finding."""


@cache
def draws_of_cases() -> list[Draws]:
    """Draws of p0 for the random guide and reward of each case."""
    return [Draws(world, world.log_guide) for world in cases(priors=True)]


def compared(
    pair: str,
    weight: Weight,
    other: Weight,
    above: Sequence[str] = (),
    below: Sequence[str] = (),
    either: Sequence[str] = (),
) -> list[Finding]:
    """Findings on numbers of weights less those of others, in each case: above 0, below, either."""
    both = [(draws, weight(draws), other(draws)) for draws in draws_of_cases()]
    findings = []
    for name in (*above, *below, *either):
        measure = MEASURES[name]
        values = torch.tensor([[measure(d, one), measure(d, two)] for d, one, two in both])
        text, first, second = f"{pair}, {name}", values[:, 0], values[:, 1]
        if name in either:
            findings.append(either_order(f"{text} below 0", first, second))
        else:
            limits = {"above": 0.0} if name in above else {"below": 0.0}
            findings.append(paired(text, first, second, **limits))
    return findings


def whole(draws: Draws) -> Tensor:
    """Weights of responses, without bias, `[S]`."""
    return draws.whole.exp()


truncated: Weight = partial(Draws.weights, name="response-constant", clip=(0.0, CAP - 1))
"""Weights of responses, at most `CAP`, `[T, S]`."""
masked: Weight = partial(Draws.weights, name="response-masked", clip=(1.0, CAP - 1))
"""Weights of responses, 0 above `CAP`, `[T, S]`."""


def tis(world: World) -> list[Finding]:
    """Weights of tokens and of responses, truncated and masked (TIS, MIS), at a = p0 and q.

    TIS truncates the weight of each token, min(w_t, C). IcePop drops tokens outside a range.
    The advantages are 0 at the posterior, and so is the gradient of each draw, whatever its weight.
    """
    draws, at_posterior = Draws(world, world.log_guide), Draws(world, world.log_posterior)
    nats = kl(world.log_guide, world.log_prior)
    constant: Weight = partial(Draws.weights, name="constant", clip=(0.0, CAP - 1))
    limited: dict[str, Weight] = {
        "tokens": partial(Draws.weights, name="token", clip=None),
        f"tokens truncated at {CAP:g}": constant,
        f"responses truncated at {CAP:g}": truncated,
        f"responses masked at {CAP:g}": masked,
    }
    icepop: Weight = partial(Draws.weights, name="masked", clip=(0.5, 4.0))
    less = "less weights of responses"
    findings = [
        exact(f"KL(q || a) {nats:.2g} nats, weights of responses, {ANGLE}", draws.off(whole(draws)))
    ]
    for name, weight in limited.items():
        pair = f"weights of {name} {less}"
        findings += compared(pair, weight, whole, above=[ANGLE], below=[NOISE])
    findings += compared(f"tokens masked outside 0.5 to 5 {less}", icepop, whole, above=[ANGLE])
    at = [at_posterior.gradients(weight(at_posterior)) for weight in (*limited.values(), icepop)]
    return [*findings, exact("all of these weights, largest gradient of a draw at q = p*", *at)]

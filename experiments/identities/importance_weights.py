"""Importance weights q/a of draws of another distribution a: an engine, or the guide of before."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.prefixes import next_token
from experiments.identities.world import DISTANCE, World, kl, mean_gradient
from experiments.shared.claims import Finding, within
from inference import Estimate, random_state
from inference.diagnostics.gradients import moved_guide
from inference.objectives.parts.surrogates import SURROGATES, Limits, Tokens

ANGLE = "mean gradient, sine of the angle to that of the ELBO"
NOISE = "log of the noise over that of weights of responses"
CAP = 2.0
"""Largest weight of truncated and masked weights."""
CASES = 50
"""Number of random guides, each with a random reward: one guide or reward can favour either."""
OVER = f"mean over {CASES} guides and rewards"


class Draws:
    """Responses of a = p0 for a guide q, with log q/a of each token and response, in nats.

    The advantage of a response is log w less its mean under q, so that the mean gradient of the
    true weights is that of the ELBO. The reward is that of the world, or another, `[S]`.
    """

    def __init__(self, world: World, log_guide: Tensor, reward: Tensor | None = None) -> None:
        self.world, self.log_guide = world, log_guide
        self.places = range(world.truth.support.shape[-1])
        of_draw, of_guide = (
            torch.stack([next_token(world, log, t) for t in self.places])
            for log in (world.log_prior, log_guide)
        )
        self.log_draw, self.tokens = of_draw, of_guide - of_draw  # log a, log q/a, [T, S]
        self.whole = log_guide - world.log_prior  # [S]
        reward = world.reward if reward is None else reward
        log_weight = reward / world.model.beta - self.whole
        self.advantage = log_weight - log_guide.exp() @ log_weight
        self.is_good = self.advantage >= 0
        self.is_token = torch.tensor(self.places)[:, None] < world.length  # [T, S]
        logits = log_guide.clone().requires_grad_()
        steps = [next_token(world, logits.log_softmax(0), t) for t in self.places]
        self.scores = torch.stack([_jacobian(step, logits) for step in steps])  # [T, S, S]

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
        """Log of the noise of a draw over the squared mean gradient, less that for true weights."""
        shares = []
        for each in (weight, self.whole.exp()):
            mean = self.mean(each)
            squares = (self.gradients(each) - mean).square().sum(1)
            shares.append(self.world.log_prior.exp() @ squares / mean.square().sum())
        return (shares[0] / shares[1]).log().item()

    def weights(self, name: str, clip: Limits | None) -> Tensor:
        """Weights of a surrogate of GRPO, `[T, S]`."""
        log_ratio = self.tokens.T[:, None].clone().requires_grad_()  # [S, 1, T]
        sign = torch.where(self.is_good, 1.0, -1.0).double()[:, None, None]
        is_token = self.is_token.T[:, None]
        tokens = Tokens(log_ratio, self.log_draw.T[:, None], sign, is_token)
        gain = SURROGATES[name](tokens, clip).masked_fill(~is_token, 0.0).sum()
        (weight,) = torch.autograd.grad(gain, log_ratio)
        return (sign * weight)[:, 0].T


Weight = Callable[[Draws], Tensor]
"""Function of draws that returns weights, `[T, S]` or `[S]`."""


@cache
def cases() -> list[Draws]:
    """Draws for random guides around p0, each with a random reward from 0 to 1 of a response."""
    world = World.of()
    with random_state.isolated(1):
        guides = [moved_guide(world.model.prior, DISTANCE) for _ in range(CASES)]
        rewards = torch.rand(CASES, len(world.reward), dtype=torch.float64)
    every = [world.truth.log_guide(guide)[:, 0].detach() for guide in guides]
    return [Draws(world, *case) for case in zip(every, rewards, strict=True)]


def over_cases(measure: Callable[[Draws, Tensor], float], weight: Weight) -> Tensor:
    """A number of weights in each case, `[C, 1]`."""
    return torch.tensor([[measure(draws, weight(draws))] for draws in cases()]).double()


def truncated(draws: Draws) -> Tensor:
    """Weights of responses, at most `CAP`, `[S]`."""
    return draws.whole.exp().clamp(max=CAP)


def masked(draws: Draws) -> Tensor:
    """Weights of responses, 0 above `CAP`, `[S]`."""
    whole = draws.whole.exp()
    return whole * (whole <= CAP)


def engine_weights(world: World) -> list[Finding]:
    """Weights of tokens and of responses, truncated and masked (TIS, MIS), at a = p0 and q.

    TIS truncates the weight of each token, min(w_t, C). IcePop drops tokens outside a range.
    The advantages are 0 at the posterior, and so is the gradient of each draw, whatever its weight.
    """
    draws = Draws(world, world.log_guide)
    capped: dict[str, Weight] = {
        "plain": partial(Draws.weights, name="token", clip=None),
        f"truncated at {CAP:g}": partial(Draws.weights, name="constant", clip=(0.0, CAP - 1)),
    }
    icepop: Weight = partial(Draws.weights, name="masked", clip=(0.5, 4.0))
    by_token = {**capped, "masked outside 0.5 to 5": icepop}
    by_response: dict[str, Weight] = {
        f"truncated at {CAP:g}": truncated,
        f"masked at {CAP:g}": masked,
    }
    nats = kl(world.log_guide, world.log_prior)
    at_posterior = Draws(world, world.log_posterior)
    every = (*by_token.values(), *by_response.values())

    def over(of: str, subject: str, weights: dict[str, Weight], **limits: float) -> Finding:
        measure = {ANGLE: Draws.off, NOISE: Draws.noise}[subject]
        means = [Estimate.of_mean(over_cases(measure, weight)) for weight in weights.values()]
        text = f"weights of {of}, {', '.join(weights)}, {subject}, {OVER}"
        return within(text, *means, num_runs=CASES, **limits)

    return [
        exact(
            f"KL(q || a) {nats:.2g} nats, weights of responses, {ANGLE}",
            draws.off(draws.whole.exp()),
        ),
        over("tokens", ANGLE, by_token, above=0.01),
        over("tokens", NOISE, capped, below=0.0),
        over("responses", NOISE, by_response, below=0.0),
        over("responses", ANGLE, by_response, above=0.01),
        exact(
            "tokens plain, truncated and masked, responses truncated and masked, largest gradient "
            "of a draw at q = p*",
            *(at_posterior.gradients(weight(at_posterior)) for weight in every),
        ),
    ]


def _jacobian(step: Tensor, logits: Tensor) -> Tensor:
    """Gradient of each entry of a step by the logits, `[S, S]`."""
    eye = torch.eye(len(step), dtype=step.dtype)
    return torch.autograd.grad(step, logits, eye, retain_graph=True, is_grads_batched=True)[0]

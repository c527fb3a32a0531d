"""Importance weights q/a of draws of another distribution a: an engine, or the guide of before."""

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.prefixes import next_token
from experiments.identities.world import World, kl, mean_gradient
from experiments.shared.claims import Finding, within
from inference.objectives.parts.surrogates import SURROGATES, Limits, Tokens

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
        """Noise of one draw over the squared mean gradient, relative to weights of responses."""
        shares = []
        for each in (weight, self.whole.exp()):
            mean = self.mean(each)
            squares = (self.gradients(each) - mean).square().sum(1)
            shares.append(self.world.log_prior.exp() @ squares / mean.square().sum())
        return (shares[0] / shares[1]).item()

    def weights(self, name: str, clip: Limits | None) -> Tensor:
        """Weights of a surrogate of GRPO, `[T, S]`."""
        log_ratio = self.tokens.T[:, None].clone().requires_grad_()  # [S, 1, T]
        sign = torch.where(self.is_good, 1.0, -1.0).double()[:, None, None]
        is_token = torch.tensor(self.places) < self.world.length[:, None, None]
        tokens = Tokens(log_ratio, self.log_draw.T[:, None], sign, is_token)
        gain = SURROGATES[name](tokens, clip).masked_fill(~is_token, 0.0).sum()
        (weight,) = torch.autograd.grad(gain, log_ratio)
        return (sign * weight)[:, 0].T


def engine_weights(world: World) -> list[Finding]:
    """Weights of tokens and of responses, truncated and masked (TIS, MIS), at a = p0 and q.

    TIS truncates the weight of each token, min(w_t, C). IcePop drops tokens outside a range.
    The advantages are 0 at the posterior, and so is the gradient of each draw, whatever its weight.
    """
    draws = Draws(world, world.log_guide)
    whole = draws.whole.exp()
    by_token = (
        draws.weights("token", None),
        draws.weights("constant", (0.0, CAP - 1)),
        draws.weights("masked", (0.5, 4.0)),
    )
    capped = {"truncated": whole.clamp(max=CAP), "masked": whole * (whole <= CAP)}
    nats = kl(world.log_guide, world.log_prior)
    subject = "mean gradient, sine of the angle to that of the ELBO"
    at_posterior = Draws(world, world.log_posterior)
    return [
        exact(f"KL(q || a) {nats:.2g} nats, weights of responses, {subject}", draws.off(whole)),
        within(
            f"weights of tokens, plain, truncated at {CAP:g}, masked outside 0.5 to 5, {subject}",
            *(draws.off(weight) for weight in by_token),
            above=0.01,
        ),
        within(
            f"weights of tokens, plain, truncated at {CAP:g}, masked outside 0.5 to 5, noise over "
            "that of weights of responses",
            *(draws.noise(weight) for weight in by_token),
            below=1.0,
        ),
        within(
            f"weights of responses truncated and masked at {CAP:g}, noise over that of the weights",
            *(draws.noise(weight) for weight in capped.values()),
            below=1.0,
        ),
        within(
            f"weights of responses truncated and masked at {CAP:g}, {subject}",
            *(draws.off(weight) for weight in capped.values()),
            above=0.01,
        ),
        exact(
            "tokens plain, truncated and masked, responses truncated and masked, largest gradient "
            "of a draw at q = p*",
            *(at_posterior.gradients(weight) for weight in (*by_token, *capped.values())),
        ),
    ]


def _jacobian(step: Tensor, logits: Tensor) -> Tensor:
    """Gradient of each entry of a step by the logits, `[S, S]`."""
    eye = torch.eye(len(step), dtype=step.dtype)
    return torch.autograd.grad(step, logits, eye, retain_graph=True, is_grads_batched=True)[0]

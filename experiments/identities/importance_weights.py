"""Importance weights q/a of draws of another distribution a: an engine, or the guide of before."""

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.prefixes import next_token
from experiments.identities.residuals import minimum
from experiments.identities.world import World, kl, mean_gradient
from experiments.shared.claims import Finding, within

CAP = 2.0
"""Largest weight of truncated and masked weights."""
GAMMA = {True: (2.0, 3.0), False: (3.0, 2.0)}
"""VESPO's power k and rate lambda for advantages above 0, and below."""
TEMPERATURES = {True: 1.0, False: 1.05}
"""SAPO's temperature for advantages above 0, and below."""


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
        self.tokens = of_guide - of_draw  # log q/a, [T, S]
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

    def gamma(self) -> Tensor:
        """VESPO's weights w^k exp(lambda (1 - w)), `[S]`."""
        good, bad = (self._kernel(*GAMMA[sign]) for sign in (True, False))
        return torch.where(self.is_good, good, bad)

    def _kernel(self, power: float, rate: float) -> Tensor:
        return (power * self.whole + rate * (1 - self.whole.exp())).exp()

    def gate(self) -> Tensor:
        """SAPO's weights w d/dw of 4/tau sigmoid(tau (w - 1)), `[T, S]`."""
        weight = self.tokens.exp()
        gates = []
        for sign in (True, False):
            gate = torch.sigmoid(TEMPERATURES[sign] * (weight - 1))
            gates.append(4 * gate * (1 - gate) * weight)
        good, bad = gates
        return torch.where(self.is_good, good, bad)

    def clip(self) -> Tensor:
        """Weights of PPO's clip at 0.2, whose gradient is 0 beyond the clip, `[T, S]`."""
        weight = self.tokens.exp()
        return weight * torch.where(self.is_good, weight < 1.2, weight > 0.8)


def engine_weights(world: World) -> list[Finding]:
    """Weights of tokens and of responses, truncated and masked (TIS, MIS), at a = p0 and q.

    TIS truncates the weight of each token, min(w_t, C).
    The advantages are 0 at the posterior, and so is the gradient of each draw, whatever its weight.
    """
    draws = Draws(world, world.log_guide)
    whole, tokens = draws.whole.exp(), draws.tokens.exp()
    by_token = (tokens, tokens.clamp(max=CAP))
    capped = {"truncated": whole.clamp(max=CAP), "masked": whole * (whole <= CAP)}
    nats = kl(world.log_guide, world.log_prior)
    subject = "mean gradient, sine of the angle to that of the ELBO"
    at_posterior = Draws(world, world.log_posterior)
    return [
        exact(f"KL(q || a) {nats:.2g} nats, weights of responses, {subject}", draws.off(whole)),
        within(
            f"weights of tokens, plain and truncated at {CAP:g}, {subject}",
            *(draws.off(weight) for weight in by_token),
            above=0.01,
        ),
        within(
            f"weights of tokens, plain and truncated at {CAP:g}, noise over that of weights of "
            "responses",
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
            "tokens plain and truncated, responses truncated and masked, largest gradient of a "
            "draw at q = p*",
            *(at_posterior.gradients(weight) for weight in (*by_token, *capped.values())),
        ),
    ]


def soft_gates(world: World) -> list[Finding]:
    """SAPO's gate (arXiv 2511.20347), VESPO's kernel (arXiv 2602.10693), and PPO's clip.

    The kernel is Q/a for the Q of least KL(Q || a) - k E_Q[log w] + lambda E_Q[w]. It is largest at
    w = k/lambda.
    """
    draws = Draws(world, world.log_guide)
    power, rate = GAMMA[True]

    def objective(log_proposal: Tensor) -> Tensor:
        log_ratio = log_proposal - world.log_prior
        return log_proposal.exp() @ (log_ratio - power * draws.whole + rate * draws.whole.exp())

    kernel = (world.log_prior + power * draws.whole - rate * draws.whole.exp()).log_softmax(0)
    subject = "mean gradient, sine of the angle to that of the ELBO"
    same = Draws(world, world.log_prior)  # q = a
    capped = draws.whole.exp().clamp(max=CAP)
    return [
        exact(
            "VESPO, KL(Q of the least objective || a w^k exp(-lambda w)/Z), nats",
            kl(minimum(objective, world), kernel),
            limit=1e-5,
        ),
        exact(
            "VESPO, SAPO and clip, q = a, mean gradient, sine of the angle to that of the ELBO",
            *(same.off(each) for each in (same.gamma(), same.gate(), same.clip())),
        ),
        within(
            f"VESPO, noise over that of plain weights (truncated: {draws.noise(capped):.2g})",
            draws.noise(draws.gamma()),
            below=1.0,
        ),
        within(
            f"VESPO, {subject} (truncated at {CAP:g}: {draws.off(capped):.2g})",
            draws.off(draws.gamma()),
            above=draws.off(capped),
        ),
        within(
            f"SAPO, {subject} (PPO's clip: {draws.off(draws.clip()):.2g})",
            draws.off(draws.gate()),
            below=draws.off(draws.clip()),
        ),
    ]


def _jacobian(step: Tensor, logits: Tensor) -> Tensor:
    """Gradient of each entry of a step by the logits, `[S, S]`."""
    eye = torch.eye(len(step), dtype=step.dtype)
    return torch.autograd.grad(step, logits, eye, retain_graph=True, is_grads_batched=True)[0]

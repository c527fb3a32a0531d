"""Losses of all pairs of a step together: optima on preferences without end."""

from functools import partial

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact, paired
from experiments.identities.preferences import FEW, judged, optimum, won
from experiments.identities.residuals import minimum, pairs
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, largest, within
from inference.direct_preferences import LIKELIHOODS, robust_mean
from inference.direct_preferences.of_batch import OfBatch, quantiles

FLIP = 0.2
"""Share of reversed labels."""
STEPS = 1.0, 2.0, 4.0, 8.0
"""Exponents t beta of p0 exp(t r): from the posterior on towards the best response."""


def dr_dpo(world: World) -> list[Finding]:
    """Dr. DPO, less weight for pairs that the guide contradicts (arXiv 2407.07880).

    With b the target is the posterior at (b - 1)/b of beta. Reversed labels alone flatten the
    target of DPO: for small rewards by 1 - 2 flip, which b = 1/(2 flip) makes up for.
    """
    wins, beta = judged(world)
    log_q = minimum(partial(_loss, robust_mean(2.0), world, wins, beta), world)
    target = (world.log_prior + 2 * world.truth.log_likelihood[:, 0]).log_softmax(0)
    nats = []
    for case in cases(FEW, priors=True):
        wins, beta = judged(case)
        noisy = (1 - FLIP) * wins + FLIP * wins.T
        own = minimum(partial(_loss, robust_mean(1 / (2 * FLIP)), case, noisy, beta), case)
        of_dpo = optimum(case, LIKELIHOODS["dpo"], noisy, beta)
        nats.append([case.gap(log_guide) for log_guide in (own, of_dpo)])
    subject = f"{100 * FLIP:.0f}% reversed, b {1 / (2 * FLIP):g}, optimum less that of DPO"
    return [
        exact("b 2, KL(optimum || posterior at beta/2), nats", kl(log_q, target), limit=1e-6),
        within("b 2, KL(optimum || p*), nats", world.gap(log_q), above=DISTINCT),
        paired(f"{subject}, KL to p*, nats", *torch.tensor(nats).T, below=0.0),
        _falls("b 1", robust_mean(1.0), world),
    ]


def aot(world: World) -> list[Finding]:
    """Quantiles of the chosen and of the rejected log q/p0, unpaired (AOT, arXiv 2406.05882)."""
    weight = won(world, judged(world)[0])
    log_ratio = world.log_ratio(world.log_posterior)
    order = log_ratio.argsort()
    below = [side[order].cumsum(0) / weight.sum() for side in (weight.sum(1), weight.sum(0))]
    lead = (below[1] - below[0])[:-1].min()
    return [
        within("p*, rejected less chosen below each log q/p0, least probability", lead, above=0.0),
        _falls("quantiles", OfBatch(quantiles), world),
    ]


def _loss(likelihood: OfBatch, world: World, wins: Tensor, beta: float, log_q: Tensor) -> Tensor:
    """Negative mean log-likelihood of pairs of prior draws, nats."""
    weight = won(world, wins).flatten()
    chosen, rejected = pairs(world.log_ratio(log_q)).flatten(1)
    return -likelihood.mean(chosen, rejected, weight / weight.sum(), beta)


def _falls(name: str, likelihood: OfBatch, world: World) -> Finding:
    """The loss falls from each p0 exp(t r) to the next, without an optimum on the way."""
    wins, beta = judged(world)
    log_guides = [
        (world.log_prior + step * world.truth.log_likelihood[:, 0]).log_softmax(0) for step in STEPS
    ]
    losses = [_loss(likelihood, world, wins, beta, log_q).item() for log_q in log_guides]
    changes = torch.tensor(losses).diff().tolist()
    ways = ", ".join(f"{1 / step:g}" for step in STEPS)
    subject = f"{name}, posteriors at {ways} beta, change of the loss from each to the next, nats"
    return within(f"{subject}, largest", largest(changes), below=0.0)

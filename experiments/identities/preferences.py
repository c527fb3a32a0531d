"""Preferences: the optimum of each loss on preferences without end, over all distributions."""

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.residuals import minimum
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding
from inference.direct_preferences import LIKELIHOODS, kto
from inference.direct_preferences.likelihoods import Likelihood
from model.preferences import FIRST


def optimum(world: World, likelihood: Likelihood, wins: Tensor, beta: float) -> Tensor:
    """log q at the least loss, `[S]`, for P(x beats y) `[S, S]` of pairs of prior draws."""
    size = len(world.log_prior)
    weight = (world.log_prior[:, None] + world.log_prior).exp() * wins
    outcome = torch.full((size * size,), FIRST)

    def loss(log_guide: Tensor) -> Tensor:
        ratio = log_guide - world.log_prior
        rewards = torch.stack(torch.meshgrid(ratio, ratio, indexing="ij")).flatten(1)
        return -(weight.flatten() * likelihood(rewards, outcome, beta)).sum()

    return minimum(loss, world)


def judged(world: World) -> tuple[Tensor, float]:
    """P(x beats y) of a judge with 4 nats per unit of reward, and the beta that gives p*."""
    sharpness = 4.0
    nats = sharpness * world.reward
    return (nats[:, None] - nats).sigmoid(), sharpness * world.model.beta


def identity(world: World) -> list[Finding]:
    """IPO: p0 exp(P(x beats y)/beta), also for certain preferences (arXiv 2310.12036).

    DPO has no optimum for certain preferences: the descent goes on to the best response.
    """
    findings = []
    noisy, _ = judged(world)
    certain = (world.reward[:, None] > world.reward).double()
    certain.fill_diagonal_(0.5)
    beta = 0.5
    for name, wins in (("a noisy judge", noisy), ("a certain judge", certain)):
        log_guide = optimum(world, LIKELIHOODS["ipo"], wins, beta)
        share = wins @ world.log_prior.exp()
        log_target = (world.log_prior + share / beta).log_softmax(0)
        findings.append(
            exact(
                f"{name}, KL(optimum || p0 exp(P(x beats y)/beta)/Z), nats",
                kl(log_guide, log_target),
                limit=1e-6,
            )
        )
    nats = kl(log_guide, world.log_prior)
    of_dpo = kl(optimum(world, LIKELIHOODS["dpo"], certain, beta), world.log_prior)
    subject = "a certain judge, KL(q || p0) where the descent of DPO ends"
    findings.append(
        Finding.of_limits(f"{subject}, nats (IPO: {nats:.2g})", [of_dpo], above=2 * nats)
    )
    return findings


def calibrated(world: World) -> list[Finding]:
    """SLiC's hinge has another optimum than the posterior (arXiv 2305.10425)."""
    return other(world, LIKELIHOODS["slic"])


def efficient(world: World) -> list[Finding]:
    """EXO with smoothed labels of pairs has another optimum (arXiv 2402.00856)."""
    return other(world, LIKELIHOODS["exo"])


def prospects(world: World) -> list[Finding]:
    """KTO on draws of p0, of which the preferred is desirable (arXiv 2402.01306)."""
    return other(world, kto(reference=0.0))


def other(world: World, likelihood: Likelihood) -> list[Finding]:
    """Distance of the optimum of a loss from the posterior, beside the distance of the prior."""
    wins, beta = judged(world)
    distances = [
        kl(log, world.log_posterior)
        for log in (optimum(world, likelihood, wins, beta), world.log_prior)
    ]
    return [
        Finding.of_limits("KL(optimum || p*), nats", distances[:1], above=0.01),
        Finding.of_limits(
            "KL(p0 || p*), nats (above the optimum's)", distances[1:], above=distances[0]
        ),
    ]

"""Shape of a reward without a reference: a power of the probability in place of its log."""

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.importance_weights import CASES
from experiments.identities.preferences import judged, least, preferred, won
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference import Estimate
from inference.direct_preferences import LIKELIHOODS, alpha_divergence
from inference.roots import root

ALPHA = 0.25
"""Power of the mean probability of a token. A smaller one is nearer to SimPO's logarithm."""


def target(alpha: float, nats: Tensor, length: Tensor) -> Tensor:
    """log q, `[S]`, with (1 - P^-alpha)/alpha = nats + c, P the mean probability of a token."""

    def at(value: float) -> Tensor:
        return -length / alpha * torch.log1p(-alpha * (nats + value))

    return at(root(lambda value: at(value).logsumexp(0).item(), -1e4, -nats.max().item()))


def powers(world: World) -> list[Finding]:
    """(1 - P^-alpha)/alpha in place of SimPO's log P (AlphaPO, arXiv 2501.03884), no margin.

    The reward is the link of an alpha divergence of f-DPO, as a function of P in place of q/p0.
    """
    wins, beta = judged(world)
    length, link = world.length, alpha_divergence(ALPHA)
    weight, nats = won(world, wins), world.reward / world.model.beta

    def shaped(log_guide: Tensor) -> Tensor:
        return link(log_guide / length)

    end = least(world, LIKELIHOODS["dpo"], weight, beta, shaped, max_steps=2000)
    generator, rows = torch.Generator().manual_seed(1), []
    for reward in torch.rand(CASES, len(nats), generator=generator, dtype=torch.float64):
        nats_of_case = reward / world.model.beta
        own = preferred(world, (nats_of_case[:, None] - nats_of_case).sigmoid())
        log_posterior = (world.log_prior + nats_of_case).log_softmax(0)
        for alpha in (ALPHA, 1e-6):
            log_guide = target(alpha, nats_of_case, length)
            gain = own @ world.log_ratio(log_guide)
            nats_from = [kl(log, log_posterior) for log in (log_guide, world.log_prior)]
            rows.append([nats_from[0], gain.item(), nats_from[1]])
    alpha_po, sim_po = torch.tensor(rows).view(CASES, 2, 3).unbind(1)
    subjects = "KL(optimum || p*), nats", "mean log q/p0 of the preferred, nats"
    sides: list[dict[str, float]] = [{"below": 0.0}, {"above": 0.0}]
    over = f"mean over {CASES} rewards"
    less = [
        within(
            f"AlphaPO less SimPO, {subject}, {over}, {one.mean():.2g} less {other.mean():.2g}",
            Estimate.of_mean((one - other)[:, None]),
            num_runs=CASES,
            **side,
        )
        for subject, one, other, side in zip(subjects, alpha_po.T, sim_po.T, sides, strict=False)
    ]
    further = Estimate.of_mean((alpha_po[:, 0] - alpha_po[:, 2])[:, None])
    return [
        exact(
            f"alpha {ALPHA:g}, KL(optimum || P = (1 - alpha (r + c))^(-1/alpha)), nats",
            kl(end, target(ALPHA, nats, length)),
            limit=1e-5,
        ),
        *less,
        within(
            f"AlphaPO less the prior, KL from p*, nats, {over}", further, num_runs=CASES, above=0.0
        ),
    ]

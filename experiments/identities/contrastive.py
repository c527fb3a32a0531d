"""Noise contrast: a group of prior draws with rewards, and the optimum of a loss of the group."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import exact
from experiments.identities.preferences import optimum
from experiments.identities.residuals import minimum
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LIKELIHOODS
from inference.targets.fixed_points import TARGETS


def noise_contrast(world: World) -> list[Finding]:
    """InfoNCA and NCA for K draws of p0 with labels softmax(r/beta) (arXiv 2402.05369).

        InfoNCA   - sum_i label_i log softmax(h)_i                                h = log q/p0
        NCA       - sum_i label_i log sigmoid(h_i) - (1/K) sum_i log sigmoid(-h_i)

    For two draws and labels 0 or 1, drawn with these probabilities, InfoNCA is DPO, and NCA the
    likelihood `nca`. The best h of NCA is the log of m(x) = K E[label of x], whose mean is 1: p0 m
    is the distribution of soft best of K. The authors' code multiplies h by a coefficient, here 1.
    """
    prior, nats = world.log_prior.exp(), world.reward / world.model.beta
    wins = (nats[:, None] - nats).sigmoid()
    label = _label_of_three(nats, prior)

    def of_three(log_guide: Tensor) -> Tensor:
        head = log_guide - world.log_prior
        return -(prior @ (3 * label * logsigmoid(head) + logsigmoid(-head)))

    info, nca = (optimum(world, LIKELIHOODS[name], wins, 1.0) for name in ("dpo", "nca"))
    errors = [
        kl(log_guide, TARGETS["soft-best-of-n"](world.problem, n=num)[:, 0])
        for num, log_guide in ((2, nca), (3, minimum(of_three, world)))
    ]
    chosen = 2 * prior * (wins @ prior)  # probability of a response as the chosen of a pair
    rarer = [(chosen @ (log < world.log_prior).double()).item() for log in (info, nca)]
    start = world.gap(world.log_prior)
    return [
        exact("InfoNCA, 2 draws, KL(optimum || p*), nats", world.gap(info), limit=1e-6),
        exact("NCA, 2 and 3 draws, KL(optimum || soft best of n), nats", *errors, limit=1e-6),
        within(
            f"NCA, share of the chosen that become rarer (InfoNCA: {rarer[0]:.2g})",
            rarer[1],
            below=rarer[0],
        ),
        within(
            f"NCA, 2 draws, KL(optimum || p*), nats (the prior's: {start:.2g})",
            world.gap(nca),
            above=0.1 * start,
            below=start,
        ),
    ]


def _label_of_three(nats: Tensor, prior: Tensor) -> Tensor:
    """Mean label of a response beside two other draws of the prior, `[S]`."""
    others, weight = torch.logaddexp(nats[:, None], nats), prior[:, None] * prior  # [S, S]
    return torch.stack([(weight * (own - others).sigmoid()).sum() for own in nats])

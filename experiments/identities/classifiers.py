"""Classifiers: good responses against bad ones (BCO), and draws against noise (NCA)."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import exact
from experiments.identities.preferences import judged, optimum
from experiments.identities.residuals import minimum
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LIKELIHOODS, bco
from inference.roots import root
from inference.targets.fixed_points import TARGETS
from model.preferences import FIRST, SECOND


def bco_check(world: World) -> list[Finding]:
    """A logistic classifier of good responses, with a shift of the reward (BCO, 2404.04656)."""
    _, beta = judged(world)
    nats, prior = 4.0 * world.reward, world.log_prior.exp()
    is_good = nats.sigmoid()
    first, second = (torch.full((len(nats),), label) for label in (FIRST, SECOND))

    def fitted(shift: float) -> Tensor:
        def loss(log_guide: Tensor) -> Tensor:
            likelihood = partial(bco(shift=shift), (log_guide - world.log_prior)[None])
            good, bad = (likelihood(outcome, beta) for outcome in (first, second))
            return -(prior * (is_good * good + (1 - is_good) * bad)).sum()

        return minimum(loss, world)

    def mean(log_guide: Tensor) -> float:
        return beta * (prior @ (log_guide - world.log_prior)).item()

    right = -beta * (world.log_prior + nats / beta).logsumexp(0).item()
    shift = _mean_as_shift(prior, is_good, beta, right)
    of_mean, start = fitted(shift), world.gap(world.log_prior)
    subject = "the mean of all responses as the shift"
    distance = f"{subject}, KL(optimum || p*), nats (the prior's: {start:.2g})"
    of_right_shift = "-beta log Z as the shift, KL(optimum || p*), nats"
    return [
        exact(of_right_shift, world.gap(fitted(right)), limit=1e-6),
        exact(f"{subject}, mean reward less the shift", mean(of_mean) - shift, limit=1e-6),
        within(distance, world.gap(of_mean), above=0.1, below=start),
    ]


def _mean_as_shift(prior: Tensor, is_good: Tensor, beta: float, low: float) -> float:
    """The shift d that is the mean of beta log q/p0 under p0 at the optimum of BCO with this shift.

    At the optimum beta (g - sigmoid(beta h - d)) = lam exp(h) for h = log q/p0 and a multiplier
    lam of sum q = 1, which is 0 at the right shift `low`. With more shift h would have more mass
    than 1, and lam is positive: the left side falls in h, the right side rises.
    """

    def log_ratio(shift: float, lam: float) -> Tensor:
        below, above = (torch.full_like(prior, end) for end in (-60.0, 60.0))
        for _ in range(60):
            middle = (below + above) / 2
            gain = beta * (is_good - torch.sigmoid(beta * middle - shift)) - lam * middle.exp()
            below, above = (
                torch.where(gain > 0, middle, below),
                torch.where(gain > 0, above, middle),
            )
        return middle

    def excess(shift: float) -> float:
        """The mean less the shift: E_p0 of the log-odds, positive, at `low`; negative at 0."""
        lam = root(lambda lam: (prior @ log_ratio(shift, lam).exp()).item() - 1, 0.0, beta)
        return beta * (prior @ log_ratio(shift, lam)).item() - shift

    return root(excess, low + 1e-9, 0.0)


def nca_check(world: World) -> list[Finding]:
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
    rarity = f"NCA, share of the chosen that become rarer (InfoNCA: {rarer[0]:.2g})"
    distance = f"NCA, 2 draws, KL(optimum || p*), nats (the prior's: {start:.2g})"
    return [
        exact("InfoNCA, 2 draws, KL(optimum || p*), nats", world.gap(info), limit=1e-6),
        exact("NCA, 2 and 3 draws, KL(optimum || soft best of n), nats", *errors, limit=1e-6),
        within(rarity, rarer[1], below=rarer[0]),
        within(distance, world.gap(nca), above=0.1 * start, below=start),
    ]


def _label_of_three(nats: Tensor, prior: Tensor) -> Tensor:
    """Mean label of a response beside two other draws of the prior, `[S]`."""
    others, weight = torch.logaddexp(nats[:, None], nats), prior[:, None] * prior  # [S, S]
    return torch.stack([(weight * (own - others).sigmoid()).sum() for own in nats])

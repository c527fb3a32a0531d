"""Best of n and its relatives: exact distributions, bounds and win rates."""

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from experiments.identities.findings import exact, over_cases
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, largest, within
from inference.order_statistics import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_log_ratio,
    best_of_n_win_rate,
    best_of_n_win_rate_bound,
    level_cdf,
)
from inference.targets.fixed_points import TARGETS

SIZES = (2, 4, 16, 64)
"""Numbers of draws n."""


def best_of_n(_: World) -> list[Finding]:
    """KL at most log n - (n - 1)/n, win rate at most n/(n + 1) (arXiv 2401.01879)."""
    findings = []
    for levels in (10, 10_000):
        prob = torch.full((levels, 1), 1 / levels, dtype=torch.float64)
        cdf, left = level_cdf(torch.arange(levels, dtype=torch.float64)[:, None], prob)
        excess, wins, slack = [], [], 0.0
        for n in SIZES:
            gap = best_of_n_kl_bound(n) - best_of_n_kl(prob, cdf, left, n).item()
            excess.append(-gap)
            slack = max(slack, gap)
            wins.append(best_of_n_win_rate(prob, cdf, left, n).item() - best_of_n_win_rate_bound(n))
        name = f"{levels:,} equally likely rewards, n to {max(SIZES)}"
        both = f"{name}, largest excess over both bounds"
        findings.append(within(both, largest(excess), largest(wins), below=1e-12))
        limits = {"above": 0.5} if levels == 10 else {"below": 0.01}
        findings.append(within(f"{name}, slack of the KL, nats", slack, **limits))
    return findings


def best_of_poisson(_: World) -> list[Finding]:
    """Win rate of best of 8 against the optimum at its KL, for ranks u in (0, 1).

    Gui et al. 2024, arXiv 2406.00832. Best of a Poisson number of draws (arXiv 2506.19248) has the
    density (1 + mu u) exp(-mu (1 - u)).
    """
    n = 8
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000

    def tilted(slope: float) -> Tensor:
        return (slope * u).log_softmax(0) + math.log(len(u))

    def poisson(mu: float) -> Tensor:
        return (1 + mu * u).log() - mu * (1 - u)

    best = math.log(n) + (n - 1) * u.log()
    nats = kl_of(best)
    optimum, of_poisson = (
        log_density(brentq(lambda x, f=log_density: kl_of(f(x)) - nats, 0.1, 60.0))
        for log_density in (tilted, poisson)
    )
    rates = [(log.exp() * u).mean().item() for log in (best, of_poisson, optimum)]
    numbers = ", ".join(f"{rate:.5f}" for rate in rates)
    return [
        Finding(
            f"win rates of best of {n}, Poisson, optimum at {nats:.3f} nats: {numbers}",
            rates[0] < rates[1] < rates[2],
        ),
        within(f"win rate that best of {n} lacks", rates[2] - rates[0], below=1e-3),
        within("win rate that Poisson lacks", rates[2] - rates[1], below=1e-4),
    ]


def kl_of(log_density: Tensor) -> float:
    """KL from a density of ranks to the uniform density, nats."""
    return (log_density.exp() * log_density).mean().item()


def soft_best_of_n(world: World) -> list[Finding]:
    """KL(p* || soft best of n) at most log(1 + CV^2/n) (arXiv 2505.03156)."""
    weight, prob = (world.reward / world.model.beta).exp(), world.log_prior.exp()
    mean = (prob * weight).sum()
    squared_cv = ((prob * weight.square()).sum() / mean.square() - 1).item()
    nats = {}
    for n in SIZES:
        log_target = TARGETS["soft-best-of-n"](world.problem, n=n)[:, 0]
        nats[n] = kl(world.log_posterior, log_target)
    over = [value - math.log1p(squared_cv / n) for n, value in nats.items()]
    numbers = ", ".join(f"{value:.3g}" for value in nats.values())
    values = list(nats.values())
    return [
        within("largest excess of the KL over the bound, nats", largest(over), below=0.0),
        Finding(
            f"KL(p* || soft best of n) falls, n of {', '.join(map(str, SIZES))}: {numbers}",
            values == sorted(values, reverse=True),
        ),
    ]


def bond(world: World) -> list[Finding]:
    """p0 F^(n-1) sum_i (F-/F)^(i-1), and the posterior of (n - 1) log F (arXiv 2407.14622)."""
    n, errors, shares = 16, [], []
    for case in (world, *cases(priors=True)):
        prior = case.log_prior.exp()
        cdf, left = (part[:, 0] for part in level_cdf(case.reward[:, None], prior[:, None]))
        series = sum((left / cdf) ** i for i in range(n))
        log_ratio = (n - 1) * cdf.log() + torch.as_tensor(series).log()
        errors.append(log_ratio - best_of_n_log_ratio(cdf, left, n))
        log_best = case.log_prior + log_ratio
        log_tilted = (case.log_prior + (n - 1) * cdf.log()).log_softmax(0)
        shares.append(kl(log_best, log_tilted) / kl(log_best, case.log_prior))
    subject = f"KL(best of {n} || posterior of log F at beta 1/{n - 1}) over KL(best of {n} || p0)"
    return [
        exact(f"best of {n}, log of the two forms of q/p0", *errors),
        over_cases(subject, shares[1:], below=0.2),
    ]

"""Judges that compare two responses: the equilibrium of guides that play against each other."""

from dataclasses import replace

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact, spread
from experiments.identities.residuals import minimum, pairs
from experiments.identities.world import World, cases, kl, mean_gradient
from experiments.shared.claims import Finding, within
from inference import random_state
from inference.targets.fixed_points.nash import nash

BETA = 0.1
"""Rate of wins per nat."""
REGRESSIONS = 5
"""Number of cases with a regression."""


def circular(world: World) -> Tensor:
    """P(x beats y), `[S, S]`: of three parts, each beats the next, and the last beats the first."""
    part = torch.arange(len(world.reward)) % 3
    ahead = (part - part[:, None]) % 3
    return 0.5 + 0.4 * ((ahead == 1).double() - (ahead == 2).double())


def nash_check(world: World) -> list[Finding]:
    """No guide wins against the equilibrium, after the KL to the prior (arXiv 2312.00886)."""
    wins = circular(world)
    log_nash = _nash(world, wins)
    log_ipo = _best_against(world, wins, world.log_prior)
    with random_state.isolated(0):
        others = (world.log_prior + torch.randn(1000, len(wins)).double()).log_softmax(-1)
    players = [log_ipo, world.log_prior, world.log_posterior, *others]
    most = max(_payoff(world, wins, log_q, log_nash) for log_q in players)
    against = _payoff(world, wins, _best_against(world, wins, log_ipo), log_ipo)
    reward = BETA * (log_nash - world.log_prior) - wins @ log_nash.exp()
    return [
        exact("spread of beta log q/p0 - P(x beats q) at the equilibrium", spread(reward)),
        within(f"largest payoff of {len(players):,} other guides", most, below=0.5),
        within("largest payoff against the target of IPO", against, above=0.501),
    ]


def online_ipo(world: World) -> list[Finding]:
    """IPO on draws of the guide descends as self-play does (arXiv 2403.08635)."""
    wins, logits = circular(world), world.log_guide.clone().requires_grad_()
    log_q = logits.log_softmax(0)
    first, second = pairs(log_q - world.log_prior)
    square = wins * (first - second - 1 / (2 * BETA)).square()  # a pair that the first has won
    mass = pairs(log_q.detach()).sum(0).exp()
    (descent,) = torch.autograd.grad(2 * (mass * square).sum(), logits)
    ratio = world.log_guide - world.log_prior
    advantage = wins @ world.log_guide.exp() / BETA - ratio
    of_play = mean_gradient(world.log_guide, world.log_guide, advantage)
    log_ipo = _best_against(world, wins, world.log_prior)
    apart = "KL(equilibrium || target of IPO on draws of the prior), nats"
    return [
        exact("gradient of online IPO + 4 times that of self-play", descent + 4 * of_play),
        within(apart, kl(_nash(world, wins), log_ipo), above=DISTINCT),
    ]


def sppo(world: World) -> list[Finding]:
    """Steps q exp(eta P(x beats q))/Z by a regression with log Z = eta/2 (SPPO, arXiv 2405.00675).

    The average of the iterates nears an equilibrium without a KL to the prior.
    """
    wins, log_q = circular(world), world.log_guide
    by_eta = [
        [_from_exact_step(case, wins, eta) for case in cases(REGRESSIONS)] for eta in (0.5, 16.0)
    ]
    subject = f"KL(least loss || exact step) from {REGRESSIONS} guides, nats"
    num_steps, rate = 4000, 0.05
    iterates = []
    for _ in range(num_steps):
        log_q = (log_q + rate * (wins @ log_q.exp())).log_softmax(0)
        iterates.append(log_q.exp())
    steps = torch.stack(iterates)  # [num_steps, S]
    best = (steps @ wins.T).max(-1).values
    of_mean = (wins @ steps.mean(0)).max().item()
    last_ones = f"best win rate against each of the last {num_steps // 4:,} iterates"
    return [
        within(f"eta 0.5, {subject}, largest", max(by_eta[0]), below=DISTINCT),
        within(f"eta 16, {subject}, smallest", min(by_eta[1]), above=DISTINCT),
        within(f"best win rate against the mean of {num_steps:,} iterates", of_mean, below=0.51),
        within(last_ones, best[-num_steps // 4 :].min(), above=0.52),
    ]


def _from_exact_step(world: World, wins: Tensor, eta: float) -> float:
    """KL(least loss of the regression || exact step), nats."""
    log_q, share = world.log_guide, wins @ world.log_guide.exp()

    def loss(log_new: Tensor) -> Tensor:
        residual = log_new - log_q - eta * (share - 0.5)
        return (log_q.exp() * residual.square()).sum()

    return kl(minimum(loss, world), (log_q + eta * share).log_softmax(0))


def _nash(world: World, wins: Tensor) -> Tensor:
    """log q of the equilibrium, `[S]`, nats."""
    return nash(replace(world.problem, beta=BETA), wins[..., None])[:, 0]


def _best_against(world: World, wins: Tensor, log_other: Tensor) -> Tensor:
    """p0 exp(P(x beats q')/beta)/Z, `[S]`, nats: the best guide against q', IPO's against p0."""
    return (world.log_prior + wins @ log_other.exp() / BETA).log_softmax(0)


def _payoff(world: World, wins: Tensor, log_q: Tensor, log_other: Tensor) -> float:
    """P(q beats q') - beta KL(q || p0) + beta KL(q' || p0)."""
    costs = kl(log_q, world.log_prior) - kl(log_other, world.log_prior)
    return (log_q.exp() @ wins @ log_other.exp()).item() - BETA * costs

"""Training for best of n: the policy whose best of n draws wins most often, at a KL from the prior.

Rewards without ties, by their rank u in (0, 1) under the prior, on a grid of equal shares.
"""

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from model.common.minimise import minimise

N, SHARES, SHAPE = 4, 400, 10.0
"""Number of draws n, number of shares of the grid, and t of the reward exp(t u)."""
BETAS = (0.02, 0.05, 0.2, 1.0)
"""Wins per nat. At far smaller ones most of q is on the last shares of the grid."""


def wins(share: Tensor) -> Tensor:
    """P(best of n draws of q wins against best of n of p0), for q `[S]`, `[]`; half for ties."""
    edges = torch.arange(SHARES + 1, dtype=share.dtype) / SHARES
    below = (edges**N)[:-1] + (edges**N)[1:]
    after = share.cumsum(0)
    return ((after**N - (after - share) ** N) * below / 2).sum()


def inf_align(_: World) -> list[Finding]:
    """q = p0 exp(R/beta)/Z, R the derivative of the wins by q (InfAlign, arXiv 2412.19792).

    R depends on q. A substitute is exp(t u), u the rank of the reward under p0. Both rewards, and
    the rank itself, are compared at the KL of the optimum.
    """
    uniform = torch.full((SHARES,), -math.log(SHARES), dtype=torch.float64)
    rank = (torch.arange(SHARES, dtype=torch.float64) + 0.5) / SHARES
    errors, nats, lacks = [], [], []
    for beta in BETAS:
        log_best = _optimum(uniform, beta)
        errors.append(kl(log_best, _fixed_point(uniform, beta)))
        nats.append(kl(log_best, uniform))
        most, rewards = wins(log_best.exp()).item(), (rank, (SHAPE * rank).exp())
        others = [_posterior(uniform, reward, nats[-1]) for reward in rewards]
        lacks.append([most - wins(log.exp()).item() for log in others])
    (one, other), subject = zip(*lacks, strict=True), f"share of wins of best of {N} that"
    at = f"{' and '.join(f'{each:.2g}' for each in nats)} nats from p0"
    ratio = "what exp(10 u) lacks over what the rank lacks"
    return [
        exact("share of wins of p0 - 1/2", wins(uniform.exp()).item() - 0.5),
        exact("KL(optimum || fixed point of p0 exp(R/beta)/Z), nats", *errors, limit=1e-8),
        within(f"{subject} the posterior of the rank lacks, {at}", *one, above=0.02),
        within(f"{subject} the posterior of exp(10 u) lacks", *other, below=0.02),
        within(ratio, *(second / first for first, second in lacks), below=0.5),
    ]


def _optimum(uniform: Tensor, beta: float) -> Tensor:
    """log q with the most wins less beta KL(q || p0), `[S]`, by descent."""
    logits = uniform.clone().requires_grad_()

    def loss() -> Tensor:
        log_q = logits.log_softmax(0)
        return beta * (log_q.exp() * (log_q - uniform)).sum() - wins(log_q.exp())

    minimise(loss, [logits], max_steps=2000)
    return logits.detach().log_softmax(0)


def _fixed_point(uniform: Tensor, beta: float) -> Tensor:
    """log q that is p0 exp(R/beta)/Z for its own R, `[S]`, by steps of a tenth of the way."""
    log_q = uniform
    for _ in range(1000):
        share = log_q.exp().requires_grad_()
        (reward,) = torch.autograd.grad(wins(share), share)
        log_q = (0.9 * log_q + 0.1 * (uniform + reward / beta)).log_softmax(0)
    return log_q


def _posterior(uniform: Tensor, reward: Tensor, nats: float) -> Tensor:
    """log of the posterior of a reward at a KL from the prior, `[S]`."""

    def at(slope: float) -> Tensor:
        return (uniform + slope * reward).log_softmax(0)

    return at(brentq(lambda slope: kl(at(slope), uniform) - nats, 0.0, 100.0))

"""Tilts of the prior: the posterior in other words, and distributions that are not."""

import math
from typing import Any

import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact
from experiments.identities.prefixes import given, soft_value
from experiments.identities.residuals import minimum
from experiments.identities.targets import THRESHOLD, of
from experiments.identities.world import World, gradient_at, kl
from experiments.shared.claims import Finding, within
from guides import Fixed
from inference import Enumeration, match_moments, solve_beta
from inference.programs import autoregressive
from model import AlignmentModel, Prompts
from model.optimality import OptimalityModel

SHARE = 0.5
"""Mean of a binary feature, as a constraint."""


def control_as_inference(world: World) -> list[Finding]:
    """p(x given O = 1) = p*, for p(O = 1 given x) = exp((r - 1)/beta) (arXiv 1805.00909)."""
    truth = Enumeration(OptimalityModel(world.model), world.prompts)
    shift = world.log_z - truth.log_z.item() - 1 / world.model.beta
    return [
        exact("log p(x given O = 1) - log p*", truth.log_posterior[:, 0] - world.log_posterior),
        exact("log Z - log p(O = 1) - 1/beta, nats", shift),
    ]


def implicit_prm(world: World) -> list[Finding]:
    """log q/p0 of the tokens so far is a soft value (arXiv 2404.12358, 2412.01981, 2502.01456).

    beta log q/p0 of the tokens so far = beta log E_p0[exp(r/beta) | tokens so far], for the reward
    r = beta log q/p0 of any guide q.
    """
    support, beta = world.truth.support, world.model.beta
    with torch.no_grad():
        guide, prior = (
            autoregressive(program.distribution(world.prompts)).log_prob_per_token(support)[:, 0]
            for program in (world.guide, Fixed(world.model.prior))
        )
    so_far = beta * (guide - prior).cumsum(-1)
    reward = beta * (world.log_guide - world.log_prior)
    errors, gaps = [], []
    for t in range(1, support.shape[-1] + 1):
        soft = beta * soft_value(world, world.log_prior + reward / beta, t)
        errors.append(so_far[:, t - 1] - soft)
        gaps.append((soft - given(world, world.log_prior, t) @ reward).max().item())
    return [
        exact("beta log q/p0 of the tokens so far - soft value, all prefixes", *errors),
        within("largest soft value less E_p0[r | tokens so far]", max(gaps), above=1e-3),
    ]


def mpo(world: World) -> list[Finding]:
    """beta of a KL budget by the dual of MPO, and by `solve_beta` (arXiv 1806.06920)."""
    nats = 0.5

    def dual(log_beta: float) -> float:
        beta = math.exp(log_beta)
        return beta * (nats + (world.log_prior + world.reward / beta).logsumexp(0).item())

    least = minimize_scalar(dual, bounds=(-6, 3), method="bounded", options={"xatol": 1e-10})
    solved = solve_beta(world.model.prior, world.model.reward, world.prompts, max_kl=nats)
    assert isinstance(solved.beta, float)
    of_beta = "log beta at the least dual - log beta of the budget"
    of_reward = "least dual - E[r] of the posterior with the budget"
    return [
        exact(of_beta, least.x - math.log(solved.beta), limit=1e-5),
        exact(of_reward, least.fun - solved.reward.value, limit=1e-8),
    ]


def filtering(world: World) -> list[Finding]:
    """Maximum likelihood on accepted draws, round by round (RAFT, arXiv 2304.06767).

    A share of the draws of the last guide, the best, as in the authors' code; or a threshold.
    """
    share, best = 0.2, world.reward.argmax()
    needed = math.ceil(world.log_prior[best].item() / math.log(share))
    rounds = [world.log_prior]
    for _ in range(max(needed, 2)):
        rounds.append(_best(world, rounds[-1], share))
    is_good = world.reward >= THRESHOLD
    log_given = world.log_prior.masked_fill(~is_good, -torch.inf).log_softmax(0)
    log_target = of(world, "filtering", threshold=THRESHOLD)
    again = log_target.masked_fill(~is_good, -torch.inf).log_softmax(0)
    good = log_target[is_good]
    errors = [(log - good).abs().max().item() for log in (log_given[is_good], again[is_good])]
    subject = f"best {share:g} of the draws"
    two_rounds = f"{subject}, two rounds, q - best {share**2:g} of the prior's"
    many_rounds = (
        f"{subject}, {needed} rounds, {share:g}^n below p0 of the best response, 1 - q of it"
    )
    return [
        exact(two_rounds, rounds[2].exp() - _best(world, world.log_prior, share**2).exp()),
        within(f"{subject}, one round, KL(q || p*), nats", world.gap(rounds[1]), above=DISTINCT),
        exact(many_rounds, 1 - rounds[needed][best].exp()),
        exact("threshold, one round and two rounds, log q - log p0 given accepted", *errors),
        within("threshold, KL(q || p*), nats", world.gap(log_target), above=DISTINCT),
    ]


def _best(world: World, log_prob: Tensor, share: float) -> Tensor:
    """log of the distribution of the best share of the draws of another, `[S]`."""
    order = world.reward.argsort(descending=True)
    prob = log_prob.exp()[order]
    accepted = torch.minimum((share - prob.cumsum(0) + prob).clamp(min=0), prob)
    return (torch.empty_like(prob).scatter(0, order, accepted) / share).log()


def power(_: World) -> list[Finding]:
    """p0^alpha against temperature 1/alpha, on two tokens (arXiv 2510.14901)."""
    log_prior = torch.tensor([0.40, 0.25, 0.25], dtype=torch.float64).log()  # ab, ba, bb
    first_is_a = (2 * log_prior).softmax(0)[0].item()
    by_temperature = 0.40**2 / (0.40**2 + 0.50**2)
    as_reward = (log_prior + log_prior / 1.0).softmax(0)[0].item()
    text = f"P(first token a), by power and by temperature {by_temperature:.4f}"
    return [
        exact("p0^2 - posterior of r = log p0 at beta 1", first_is_a - as_reward),
        within(text, first_is_a, above=by_temperature),
    ]


def entropy(world: World) -> list[Finding]:
    """Less entropy as the only reward, beside a penalty of beta KL (arXiv 2505.15134).

    E_q[log q] - beta KL(q || p0) has its maximum at p0^(beta/(beta - 1)), and for beta of 1 or less
    at one response. A bonus of a times the entropy, beside a reward, has its maximum at the
    posterior at beta + a of the prior p0^(beta/(beta + a)).
    """

    def loss(log_q: Tensor, beta: float, bonus: float, reward: Tensor | float = 0.0) -> Tensor:
        return log_q.exp() @ (beta * (log_q - world.log_prior) + bonus * log_q - reward)

    def slope(log_q: Tensor, *terms: Any) -> float:
        return gradient_at(log_q, lambda log: loss(log, *terms)).abs().max().item()

    beta, bonus = world.model.beta, 0.1
    log_power = (2 * world.log_prior).log_softmax(0)
    log_bonus = ((beta * world.log_prior + world.reward) / (beta + bonus)).log_softmax(0)
    largest = minimum(lambda log_q: loss(log_q, 0.5, -1.0), world).max().exp().item()
    return [
        exact("beta 2, gradient at p0^2", slope(log_power, 2.0, -1.0)),
        exact(
            "entropy bonus, gradient at its posterior", slope(log_bonus, beta, bonus, world.reward)
        ),
        within("beta 0.5, largest probability at the end", largest, above=0.9),
    ]


def gdc(world: World) -> list[Finding]:
    """The distribution nearest to p0 with a given mean of a feature (GDC, arXiv 2012.11635)."""
    is_good = world.reward >= THRESHOLD
    reward = world.model.reward

    def feature(prompts: Prompts, response: Tensor) -> Tensor:
        return (reward(prompts, response) >= THRESHOLD).double()

    base = AlignmentModel(world.model.prior, {}, 1.0)
    match = match_moments(base, world.prompts, {"good": feature}, {"good": SHARE})
    share = world.log_prior[is_good].exp().sum().item()
    closed = math.log(SHARE / (1 - SHARE) * (1 - share) / share)

    def tilted(slope: float) -> Tensor:
        return (world.log_prior + slope * world.reward).log_softmax(0)

    slope = brentq(lambda x: tilted(x)[is_good].exp().sum().item() - SHARE, -50.0, 50.0)
    nats = kl(tilted(slope), world.log_prior)
    subject = f"share {SHARE:g} from {share:.2f}, KL(p* || p0), nats"
    return [
        exact("lambda - its closed form", match.multipliers["good"] - closed, limit=1e-6),
        exact(f"mean of the feature - {SHARE:g}", match.moments["good"].value - SHARE, limit=1e-6),
        within(f"{subject} (below a posterior of r with that share)", match.kl.value, below=nats),
    ]

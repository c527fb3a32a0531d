"""Targets: the distributions that methods converge to, by the equations that define them."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact, spread
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LINKS
from inference.targets.fixed_points import TARGETS, Problem

THRESHOLD = 0.6
"""Reward from which a response is accepted."""
RATE = 0.2
"""Share of successes under the prior of a binary reward."""


def of(world: World, target: str, **options: float) -> Tensor:
    """log q of a target by name, `[S]`, nats."""
    return TARGETS[target](world.problem, **options)[:, 0]


def reached(name: str, log_target: Tensor, world: World) -> Finding:
    """Distance of a target from the posterior, more than rounding."""
    subject = f"KL({name} || p*), nats"
    return within(subject, world.gap(log_target), above=DISTINCT)


def chi_po(world: World) -> list[Finding]:
    """beta (z + log z) = r - lambda for z = q/p0, a bounded ratio (arXiv 2407.13399)."""
    beta = world.model.beta
    log_target = of(world, "chi-squared")
    log_z = log_target - world.log_prior
    shift = beta * (log_z.exp() + log_z) - world.reward
    ratio = log_z.max().exp().item()
    of_posterior = (world.log_posterior - world.log_prior).max().exp().item()
    return [
        exact("spread of beta (z + log z) - r over all responses", spread(shift)),
        within("largest q/p0 (the bound is 1 + 1/beta)", ratio, below=1 + 1 / beta),
        within("largest p*/p0 (above the largest q/p0)", of_posterior, above=ratio),
        reached("chi-PO", log_target, world),
    ]


def flow_rl(world: World) -> list[Finding]:
    """Balance per token against balance per response (FlowRL, arXiv 2509.15207)."""
    problem, log_target = world.problem, of(world, "length-normalised")
    assert problem.length is not None
    length = problem.length[:, 0]
    residual = world.reward / world.model.beta - (log_target - world.log_prior) / length
    plain = world.log_joint - world.log_posterior
    return [
        exact("per response: spread of log (p0 exp(r/beta)/p*)", spread(plain)),
        exact("per token: spread of the residual at the target", spread(residual)),
        reached("balance per token", log_target, world),
    ]


def mode_anchored(world: World) -> list[Finding]:
    """Forward-KL penalty, and equal mass above a threshold (MARA; arXiv 2510.20817)."""
    log_forward = of(world, "forward-kl")
    ceiling = world.reward + world.model.beta * (world.log_prior - log_forward).exp()
    is_good = world.reward >= THRESHOLD
    log_anchored = of(world, "mode-anchored", threshold=THRESHOLD)
    subject = f"spread of log-probability where r >= {THRESHOLD:g}, nats"
    of_posterior = [spread(world.log_posterior[is_good])]
    return [
        exact("forward KL: spread of r + beta p0/q", spread(ceiling)),
        exact(f"mode-anchored: {subject}", spread(log_anchored[is_good])),
        within(f"posterior: {subject}", *of_posterior, above=1.0),
    ]


def qrpo(world: World) -> list[Finding]:
    """Z of the reward's quantile in closed form (QRPO, arXiv 2507.08068)."""
    beta = 0.1
    log_formula = math.log(beta * math.expm1(1 / beta))
    many = torch.full((10_000, 1), -math.log(10_000), dtype=torch.float64)
    errors = {}
    for name, log_prior, reward in (
        ("10,000 equally likely responses", many, torch.linspace(0, 1, 10_000)[:, None]),
        (f"{len(world.reward)} responses", world.log_prior[:, None], world.reward[:, None]),
    ):
        order = reward[:, 0].argsort()
        rank = torch.empty_like(log_prior[:, 0])
        rank[order] = log_prior[order, 0].exp().cumsum(0)
        log_target = TARGETS["quantile"](Problem(log_prior, reward, beta))[:, 0]
        log_z = (rank / beta - (log_target - log_prior[:, 0])).mean().item()
        errors[name] = abs(log_z - log_formula)
    (fine, error), (coarse, of_few) = errors.items()
    return [
        exact(f"{fine}, log Z - log(beta (e^(1/beta) - 1))", error, limit=1e-3),
        within(f"{coarse}, error of the formula, nats", of_few, above=1e-3),
    ]


def mirror_descent(world: World) -> list[Finding]:
    """Exact steps q prop. to q_old exp(r/tau) average the rewards (arXiv 2003.14089)."""
    num_steps = 4
    log_guide = world.log_prior
    for _ in range(num_steps):
        log_guide = (log_guide + world.reward / (num_steps * world.model.beta)).log_softmax(0)
    error = log_guide - world.log_posterior
    return [exact(f"{num_steps} steps at tau = {num_steps} beta, log q - log p*", error)]


def reward_weighted(world: World) -> list[Finding]:
    """Fits of draws weighed by exp(r/beta), round by round (reward-weighted regression).

    Dayan and Hinton 1997, Peters and Schaal 2007: EM on log E_q[exp(r/beta)]. The guide of a round
    is the posterior with the last guide as the prior.
    """
    problem, log_means, nats = world.problem, [world.log_z], []
    for _ in range(4):
        problem = replace(problem, log_prior=TARGETS["posterior"](problem))
        log_guide = problem.log_prior[:, 0]
        log_means.append((log_guide + world.reward / world.model.beta).logsumexp(0).item())
        nats.append(world.gap(log_guide))
    numbers = ", ".join(f"{value:.3f}" for value in log_means)
    text = f"log E_q[exp(r/beta)] after 0 to 4 rounds, nats: {numbers}"
    at_quarter = (world.log_prior + 4 * world.reward / world.model.beta).log_softmax(0)
    return [
        Finding(text, log_means == sorted(log_means)),
        exact("one round, KL(q || p*), nats", nats[0]),
        exact("four rounds, KL(q || posterior at beta/4), nats", kl(log_guide, at_quarter)),
        within("four rounds, KL(q || p*), nats", *nats[3:], above=DISTINCT),
    ]


def kimi(world: World) -> list[Finding]:
    """A step with the mean reward in place of log Z (Kimi; arXiv 2501.12599, 2602.05933)."""
    log_target = of(world, "mean-mirror-descent")
    ratio = log_target - world.log_prior
    centred = world.reward - (world.log_prior.exp() * world.reward).sum()
    # s + c e^s = (r - mean r)/tau
    share = (centred / world.model.beta - ratio) * (-ratio).exp()
    slow = Problem(world.log_prior[:, None], world.reward[:, None], 20 * world.model.beta)
    parts = [TARGETS[name](slow)[:, 0] for name in ("mean-mirror-descent", "posterior")]
    return [
        exact("spread of ((r - mean r)/tau - s) e^-s", spread(share)),
        reached("step with the mean", log_target, world),
        within("at tau = 20 beta, KL(step || posterior at tau), nats", kl(*parts), below=1e-4),
    ]


def grpo_success(world: World) -> list[Finding]:
    """GRPO on 0/1 rewards: logit p = logit p0 + 1/(beta sqrt(p (1 - p))) (arXiv 2503.06639)."""
    beta = 2.0
    log_prior = torch.tensor([[1 - RATE], [RATE]], dtype=torch.float64).log()
    problem = Problem(log_prior, torch.tensor([[0.0], [1.0]]), beta)
    rate = TARGETS["grpo"](problem)[1, 0].exp()
    of_posterior = TARGETS["posterior"](problem)[1, 0].exp().item()
    shift = rate.logit() - math.log(RATE / (1 - RATE)) - 1 / (beta * (rate * (1 - rate)).sqrt())
    subject = f"successes from {RATE:g} at beta {beta:g}, by GRPO"
    return [
        exact("logit p - logit p0 - 1/(beta sqrt(p (1 - p)))", shift),
        within(f"{subject} (posterior: {of_posterior:.3g})", rate, above=of_posterior + 0.1),
    ]


def grpo_k3(world: World) -> list[Finding]:
    """GRPO with k3 as a loss: q = p0/(1 - A/beta), A from q itself (arXiv 2502.18548)."""
    beta = 4.0
    problem = Problem(world.log_prior[:, None], world.reward[:, None], beta)
    log_target = TARGETS["grpo-k3"](problem)[:, 0]
    prob = log_target.exp()
    mean = (prob * world.reward).sum()
    advantage = (world.reward - mean) / (prob * (world.reward - mean).square()).sum().sqrt()
    log_tilted = world.posterior_at(beta)
    return [
        exact("q (1 - A/beta)/p0 - 1", prob * (1 - advantage / beta) / world.log_prior.exp() - 1),
        within("KL(target || p0 exp(r/beta)/Z), nats", kl(log_target, log_tilted), above=DISTINCT),
    ]


def f_dpo(world: World) -> list[Finding]:
    """r = beta f'(q/p0) + c at the optimum of a penalty by any f (f-DPO, arXiv 2309.16240)."""
    targets = {"reverse-kl": "posterior", "forward-kl": "forward-kl", "chi-squared": "chi-squared"}
    errors = [
        spread(world.reward - world.model.beta * LINKS[link](of(world, target) - world.log_prior))
        for link, target in targets.items()
    ]
    return [exact(f"spread of r - beta f'(q/p0), {', '.join(targets)}", *errors)]

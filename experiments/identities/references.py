"""DPO with the last guide as the reference, without a reference, and with pairs from elsewhere."""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.autograd.functional import hessian

from experiments.identities.findings import DISTINCT, either_order, exact, paired
from experiments.identities.preferences import (
    FEW,
    excess,
    judged,
    least,
    less_prior,
    loss_of,
    preferred,
    won,
)
from experiments.identities.residuals import minimum, pairs
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LIKELIHOODS, alpha_divergence, margin
from inference.roots import root
from inference.targets.fixed_points import TARGETS

ROUNDS = 4
"""Number of rounds of self-play."""
ALPHA = 0.25
"""Power of the mean probability of a token. A smaller one is nearer to SimPO's logarithm."""


def spin(world: World) -> list[Finding]:
    """DPO of data against draws of the last guide, the reference (SPIN, arXiv 2401.01335).

    The optimum of a round is q_old (p_data/q_old)^(1/lam), so that log q/p_data, up to a constant,
    is multiplied by 1 - 1/lam in each round: it falls if lam is above 1/2, and else grows. p* takes
    the part of p_data.
    """
    log_data, log_old = world.log_posterior, world.log_guide
    weight = (log_data[:, None] + log_old).exp()
    errors, left = [], {}
    for lam in (1.0, 0.4):
        log_guide = _round(log_old, log_data, lam)
        errors.append(
            excess(LIKELIHOODS["dpo"], weight, lam, lambda log_q: log_q - log_old, log_guide)
        )
    for lam in (1.0, 5.0, 0.4, 0.1):
        log_guide = log_old
        for _ in range(ROUNDS):
            log_guide = _round(log_guide, log_data, lam)
        left[lam] = kl(log_data, log_guide)
    start = kl(log_data, log_old)
    subject = f"KL(p_data || q) after {ROUNDS} rounds, nats (at the start {start:.2g})"
    return [
        exact("loss at q_old (p_data/q_old)^(1/lam)/Z less the least of any rewards", *errors),
        exact("lam 1, KL(p_data || q) after one round, nats", left[1.0]),
        within(f"lam 5, {subject}", left[5.0], below=start),
        within(f"lam 0.4, {subject}", left[0.4], above=start),
        within(f"lam 0.1, {subject}", left[0.1], above=start),
    ]


def _round(log_old: Tensor, log_data: Tensor, lam: float) -> Tensor:
    """log q at the optimum of a round, `[S]`, nats."""
    return (log_old + (log_data - log_old) / lam).log_softmax(0)


def tr_dpo(world: World) -> list[Finding]:
    """DPO whose reference becomes the guide after each round, at its optimum (TR-DPO, 2404.09656).

    The optimum of a round is q_old exp(r/beta)/Z: the exponents add up, as in mirror descent.
    """
    wins, beta = judged(world)
    weight = won(world, wins)
    rounds = [world.posterior_at(world.model.beta / n) for n in range(1, ROUNDS + 1)]
    errors = [
        excess(LIKELIHOODS["dpo"], weight, beta, partial(torch.sub, other=log_old), log_guide)
        for log_old, log_guide in zip([world.log_prior, *rounds], rounds, strict=False)
    ]
    of_one, of_all = (kl(log, world.log_prior) for log in (rounds[0], rounds[-1]))
    of_rounds = (
        f"loss of round n of {ROUNDS} at the posterior of beta/n, with that of beta/(n - 1) as "
        "the reference, less the least of any rewards"
    )
    last = f"KL(optimum || p0) after {ROUNDS} rounds, nats (of DPO: {of_one:.2g})"
    return [exact(of_rounds, *errors), within(last, of_all, above=of_one)]


def simpo(_: World) -> list[Finding]:
    """beta log q per token as the reward, without a reference (SimPO, arXiv 2405.14734).

    The target is that of a balance per token, with all tokens equally likely in place of p0.
    """
    errors, targets, rewards, with_margin = [], [], [], []
    for number, case in enumerate(cases(priors=True)):
        wins, beta = judged(case)
        weight, log_target = won(case, wins), _per_token(case)
        per_token = partial(torch.div, other=case.length)
        errors.append(excess(margin(0.0), weight, beta, per_token, log_target))
        targets.append(log_target)
        rewards.append([case.mean_reward(log) for log in (log_target, case.log_prior)])
        if number < FEW:
            with_margin.append(kl(least(case, margin(0.5), weight, beta, per_token), log_target))
    with_a_margin = f"margin 0.5, least KL(optimum || target) of {FEW} cases, nats"
    return [
        exact("no margin, loss at the target less the least of any rewards", *errors),
        paired("target less prior, E[r]", *torch.tensor(rewards).T, above=0.0),
        less_prior("target", targets, above=0.0),
        within(with_a_margin, min(with_margin), above=DISTINCT),
    ]


def _per_token(world: World) -> Tensor:
    """log q at the target of SimPO without a margin, `[S]`, nats."""
    problem = world.problem
    _, length = problem.tokens("length-normalised")
    uniform = -math.log(world.model.prior.space.vocab_size) * length
    return TARGETS["length-normalised"](replace(problem, log_prior=uniform))[:, 0]


def _power_target(alpha: float, nats: Tensor, length: Tensor) -> Tensor:
    """log q, `[S]`, with (1 - P^-alpha)/alpha = nats + c, P the mean probability of a token."""

    def at(value: float) -> Tensor:
        return -length / alpha * torch.log1p(-alpha * (nats + value))

    return at(root(lambda value: at(value).logsumexp(0).item(), -1e4, -nats.max().item()))


def alpha_po_check(_: World) -> list[Finding]:
    """(1 - P^-alpha)/alpha in place of SimPO's log P (AlphaPO, arXiv 2501.03884), no margin.

    The reward is the link of an alpha divergence of f-DPO, as a function of P in place of q/p0.
    """
    link, errors = alpha_divergence(ALPHA), []
    numbers: list[list[float]] = []
    for case in cases(priors=True):
        (wins, beta), length = judged(case), case.length
        own, nats = preferred(case, wins), case.reward / case.model.beta
        both = [_power_target(alpha, nats, length) for alpha in (ALPHA, 1e-6)]

        def shaped(log_guide: Tensor, length: Tensor = length) -> Tensor:
            return link(log_guide / length)

        errors.append(excess(LIKELIHOODS["dpo"], won(case, wins), beta, shaped, both[0]))
        distances = [case.gap(log_guide) for log_guide in (*both, case.log_prior)]
        gains = [(own @ case.log_ratio(log_guide)).item() for log_guide in both]
        numbers.append([*distances, *gains])
    alpha_po, sim_po, prior, gain, other_gain = torch.tensor(numbers).T
    of_loss = (
        f"alpha {ALPHA:g}, loss at P = (1 - alpha (r + c))^(-1/alpha) less the least of any rewards"
    )
    return [
        exact(of_loss, *errors),
        paired("AlphaPO less SimPO, KL(optimum || p*), nats", alpha_po, sim_po, below=0.0),
        paired(
            "AlphaPO less SimPO, mean log q/p0 of the preferred, nats", gain, other_gain, above=0.0
        ),
        paired("AlphaPO less the prior, KL from p*, nats", alpha_po, prior, above=0.0),
    ]


def rso(world: World) -> list[Finding]:
    """Pairs of draws of p*, of p0 and of all responses alike, for DPO (RSO, arXiv 2309.06657).

    With n independent pairs, n large, E[KL(p* || q)] is tr(H_KL H^-1)/(2n), for the second
    derivatives by the logits of the guide at p*: H_KL of the KL, H of the loss of a pair.
    """
    wins, beta = judged(world)
    errors, differences = [], []
    for log_draw in _sources(world):
        weight = 2 * pairs(log_draw).sum(0).exp() * wins  # of a pair, the winner first
        loss = partial(loss_of, LIKELIHOODS["dpo"], weight, beta, world.log_ratio)
        errors.append(world.gap(minimum(loss, world)))
        differences.append(hessian(loss, world.log_posterior) - _curvature(world, log_draw))
    nats = [
        [_nats_by_pairs(case, log_draw) for log_draw in _sources(case)]
        for case in cases(priors=True)
    ]
    best, prior, alike = torch.tensor(nats).log().T
    subject = "log of pairs times E[KL(p* || q)]"
    return [
        either_order(f"pairs from p* less than from p0, {subject}", best, prior),
        paired(f"pairs from all alike less from p*, {subject}", alike, best, below=0.0),
        exact("pairs without end from p*, p0, all alike, KL(optimum || p*)", *errors, limit=1e-6),
        exact("second derivatives of the loss of a pair - H", *differences),
    ]


def _sources(world: World) -> tuple[Tensor, Tensor, Tensor]:
    """log of p*, of p0 and of all responses alike, `[S]` each."""
    return world.log_posterior, world.log_prior, world.uniform


def _curvature(world: World, log_draw: Tensor) -> Tensor:
    """H of pairs of draws, `[S, S]`: 2 beta^2 a(x) a(y) P(x beats y) P(y beats x) for x, y."""
    wins, beta = judged(world)
    edges = 2 * beta**2 * pairs(log_draw).sum(0).exp() * wins * wins.T
    return edges.sum(1).diag() - edges


def _nats_by_pairs(world: World, log_draw: Tensor) -> float:
    """Number of pairs times E[KL(p* || q)], nats."""
    prob = world.log_posterior.exp()
    of_kl = prob.diag() - prob.outer(prob)
    inverse = torch.linalg.pinv(_curvature(world, log_draw), hermitian=True)
    return torch.trace(of_kl @ inverse).item() / 2

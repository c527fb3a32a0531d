"""Losses of preferences with more terms: the chosen response itself, an offset, a KL of tokens."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import DISTINCT, exact, over_cases, paired
from experiments.identities.preferences import (
    FEW,
    excess,
    judged,
    least,
    less_prior,
    loss_of,
    optimum,
    preferred,
    won,
)
from experiments.identities.prefixes import given, next_token, soft_value, token_by_token
from experiments.identities.residuals import minimum, pairs
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LIKELIHOODS, positive_dpo, with_chosen
from inference.direct_preferences.likelihoods import Likelihood, odds, of_chosen
from inference.roots import root
from model.preferences import FIRST


def orpo(_: World) -> list[Finding]:
    """Log-odds of the mean probability of a token, and the chosen response (ORPO, 2403.07691)."""
    alone = of_chosen(lambda chosen, other, beta: odds(chosen, other, beta) - chosen)
    errors, targets = [], []
    for case in cases(priors=True):
        weight, log_target = won(case, judged(case)[0]), _of_odds(case)
        errors.append(excess(alone, weight, 1.0, _mean_token(case), log_target))
        targets.append(log_target)
    few, ends, to_chosen = cases(FEW, priors=True), [], []
    for case in few:
        weight = won(case, judged(case)[0])
        ends.append(least(case, LIKELIHOODS["orpo"], weight, 0.1, _mean_token(case)))
        of_chosen_alone = (weight.sum(1) / case.length).log().log_softmax(0)
        to_chosen.append(kl(ends[-1], of_chosen_alone))
    rewards = [
        [case.mean_reward(log) for log in (end, case.log_prior)]
        for case, end in zip(few, ends, strict=True)
    ]
    return [
        exact("odds alone, loss at P = sigmoid(r + c) less the least of any rewards", *errors),
        less_prior("odds alone, optimum", targets, above=0.0),
        paired("beta 0.1, optimum less prior, E[r]", *torch.tensor(rewards).T, above=0.0),
        less_prior("beta 0.1, optimum", ends, below=0.0),
        over_cases(
            "beta 0.1, KL(optimum || optimum of the chosen alone), nats", to_chosen, below=0.01
        ),
    ]


def _mean_token(world: World) -> Callable[[Tensor], Tensor]:
    """log of the mean probability of a token, `[S]`, below 0, as a function of log q."""
    return lambda log_guide: (log_guide / world.length).clamp(max=-1e-9)


def _of_odds(world: World) -> Tensor:
    """log q whose mean probability of a token is sigmoid(r + c), r in nats of the judge, `[S]`."""

    def at(shift: float) -> Tensor:
        return world.length * logsigmoid(4.0 * world.reward + shift)

    return at(root(lambda shift: at(shift).logsumexp(0).item(), -50.0, 50.0))


def rpo_check(world: World) -> list[Finding]:
    """DPO's log-likelihood and that of the chosen response (RPO, arXiv 2404.19733)."""
    wins, beta = judged(world)
    prob = preferred(world, wins)

    def rarer(log_guide: Tensor) -> float:
        return (prob @ (log_guide < world.log_prior - 1e-6).double()).item()

    dpo, rpo = (
        optimum(world, likelihood, wins, beta) for likelihood in (LIKELIHOODS["dpo"], with_chosen())
    )
    subject = "share of preferred responses that become rarer"
    return [
        within(f"RPO, {subject} (DPO: {rarer(dpo):.2g})", rarer(rpo), below=rarer(dpo)),
        within("RPO, KL(optimum || p*), nats", world.gap(rpo), above=DISTINCT),
    ]


def dpop(world: World) -> list[Finding]:
    """DPO with a penalty for a chosen response that is rarer than under p0 (DPOP, 2402.13228).

    The loss has a kink at p0, from which a descent along gradients would not move. It is convex in
    log q/p0, and so is the set of q, relaxed to sum q <= 1: p0 is the optimum if the loss rises
    wherever mass goes from one response to another. With a the share of wins against p0, this is so
    for all pairs if the weight is at least 2 (max a / min a - 1).
    """
    wins, beta = judged(world)
    weight = won(world, wins)
    share = wins @ world.log_prior.exp()
    bound = 2 * (share.max() / share.min() - 1).item()

    def slope(penalty: float) -> float:
        """Least slope of the loss at p0 of all moves of mass, nats."""
        up, down = (_side(world, positive_dpo(penalty), weight, beta, sign) for sign in (1, -1))
        return (up[:, None] - down).fill_diagonal_(torch.inf).min().item()

    subject = "least slope of the loss at p0 of all moves of mass from a response to another, nats"
    return [
        within(f"weight 50, {subject}", slope(50.0), above=0.0),
        within(f"weight 5, {subject}", slope(5.0), below=0.0),
        exact(f"weight 2 (max a / min a - 1), {subject}", slope(bound), limit=1e-8),
        within("least weight that holds the optimum at p0 (the paper's: 50)", bound, below=50.0),
    ]


def _side(world: World, likelihood: Likelihood, weight: Tensor, beta: float, sign: int) -> Tensor:
    """Slopes of the loss at p0 by the mass of each response, on one side of a kink, `[S]`."""
    head = (sign * 1e-12 * torch.ones_like(world.log_prior)).requires_grad_()
    loss = loss_of(likelihood, weight, beta, lambda log_ratio: log_ratio, head)
    return torch.autograd.grad(loss, head)[0] / world.log_prior.exp()


def tdpo(world: World) -> list[Finding]:
    """log q/p0 and the KL of each token from the prior as the reward (TDPO_1, arXiv 2404.11999)."""
    wins, beta = judged(world)
    weight = won(world, wins)
    places = range(world.truth.support.shape[-1])
    of_prior = [next_token(world, world.log_prior, t) for t in places]

    def head(log_guide: Tensor) -> Tensor:
        reward = log_guide - world.log_prior
        for t in places:
            log_ratio = of_prior[t] - next_token(world, log_guide, t)
            reward = reward + given(world, world.log_prior, t) @ log_ratio
        return reward

    log_guide = least(world, LIKELIHOODS["dpo"], weight, beta, head)
    ends = [_by_mean_reward(case) for case in cases(priors=True)]
    nats = [
        [kl(case.log_prior, log) for log in (end, case.log_posterior)]
        for case, end in zip(cases(priors=True), ends, strict=True)
    ]
    gaps = [case.gap(end) for case, end in zip(cases(priors=True), ends, strict=True)]
    of_tokens = "KL(optimum || tokens in proportion to p0 exp(E_p0[r]/beta)), nats"
    return [
        exact(of_tokens, kl(log_guide, _by_mean_reward(world)), limit=1e-6),
        paired("TDPO less DPO, KL(p0 || optimum), nats", *torch.tensor(nats).T, above=0.0),
        over_cases("KL(optimum || p*), nats", gaps, above=DISTINCT),
    ]


def _by_mean_reward(world: World) -> Tensor:
    """log q of tokens in proportion to p0 exp(E_p0[r]/beta), `[S]`, nats."""
    log_mean = world.log_prior + world.reward.log()

    def score(t: int) -> Tensor:
        value = soft_value(world, log_mean, t + 1).exp()
        return next_token(world, world.log_prior, t) + value / world.model.beta

    return token_by_token(world, score)


def odpo(world: World) -> list[Finding]:
    """An offset of half the difference of the rewards for each pair (ODPO, arXiv 2402.10571)."""
    wins, beta = judged(world)
    weight = won(world, wins)
    nats = 4.0 * world.reward
    offset = (nats[:, None] - nats).abs() / 2

    def loss(log_guide: Tensor) -> Tensor:
        first, second = pairs(log_guide - world.log_prior)
        rewards = torch.stack([first - offset / beta, second]).flatten(1)
        outcome = torch.full((rewards.shape[1],), FIRST)
        return -(weight.flatten() * LIKELIHOODS["dpo"](rewards, outcome, beta)).sum()

    log_guide = minimum(loss, world)
    betas = torch.linspace(0.05, 1.0, 400, dtype=torch.float64)
    nearest, least_nats = world.nearest_posterior(log_guide, betas)
    rewards = [world.mean_reward(log) for log in (world.log_posterior, log_guide)]
    from_nearest = (
        f"KL(optimum || posterior of beta {nearest:.2f}), nats (beta is {world.model.beta:g})"
    )
    return [
        within(f"E[r] at the optimum (of DPO: {rewards[0]:.3g})", rewards[1], above=rewards[0]),
        within("KL(optimum || p*), nats", world.gap(log_guide), above=DISTINCT),
        within(from_nearest, least_nats, below=1e-3),
    ]

"""Credit for single tokens: values of prefixes by more draws, and baselines by length."""

import torch
from torch import Tensor

from experiments.identities.findings import exact, over_cases, paired
from experiments.identities.gradients import elbo_of, token_scores
from experiments.identities.prefixes import given, next_token, soft_value
from experiments.identities.residuals import pairs
from experiments.identities.world import World, cases, noise
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference import Estimate
from inference.programs import log_guide_at

NETWORKS = 24
"""Number of cases with gradients by the parameters of a network."""


def vine_ppo(world: World) -> list[Finding]:
    """Advantages by values of prefixes, each a mean of draws (VinePPO, arXiv 2410.01679).

    The error of a value multiplies the score of the token before less that of the token after. The
    baseline of all draws is the mean of log w, of very many draws.
    """
    errors, shares = zip(*map(_with_rollouts, (world, *cases())), strict=True)
    of_exact, of_one, of_nine, *cost = zip(*shares[1:], strict=True)
    subject = "noise over that of the mean of all draws as the baseline, log"
    return [
        exact("mean gradient - grad ELBO", *errors),
        over_cases(f"9 draws of each prefix, {subject}", of_nine, below=0.0),
        over_cases(f"exact values, {subject}", of_exact, below=0.0),
        over_cases(f"1 draw of each prefix, {subject}", of_one, above=0.0),
        over_cases(f"1 and 9 draws, at equal tokens drawn, {subject}", *cost, above=0.0),
    ]


def _with_rollouts(world: World) -> tuple[float, list[float]]:
    """Error of the mean gradient, and logs of shares of the noise with the mean as the baseline.

    The shares: exact values; 1 and 9 draws of each prefix; the same two at equal tokens drawn.
    """
    log_weight, prob = world.log_joint - world.log_guide, world.log_guide.exp()
    tables = [given(world, world.log_guide, t) for t in range(world.truth.support.shape[-1] + 1)]
    values = [table @ log_weight for table in tables]
    variances = [table @ log_weight.square() - (table @ log_weight).square() for table in tables]
    steps = torch.stack(tables).diff(dim=0)  # scores of tokens
    mean, of_exact = _moments(prob, torch.stack(values).diff(dim=0), steps)
    before = torch.cat([torch.zeros_like(steps[:1]), steps[:-1]])
    changes = (before - steps).square().sum(-1)
    of_draws = sum((prob * v) @ change for v, change in zip(variances, changes, strict=False))
    plain = noise(world.log_guide, log_weight - prob @ log_weight)
    length = world.length
    # A prefix of t tokens of a response of n tokens goes on for as many as a response has after t.
    tokens, of_prefixes = prob @ length, prob @ (length * (length + 1) / 2)
    num_draws = torch.tensor([1.0, 9.0], dtype=torch.float64)
    shares = (of_exact + of_draws / num_draws) / plain
    cost = shares * (1 + num_draws * of_prefixes / tokens)
    every = torch.cat([torch.tensor([of_exact / plain], dtype=torch.float64), shares, cost])
    return relative_error(mean, elbo_of(world)), every.log().tolist()


def _moments(prob: Tensor, advantage: Tensor, steps: Tensor) -> tuple[Tensor, float]:
    """Mean and noise of the gradient of one draw, for an advantage of each token, `[T, S]`."""
    gain = (advantage[..., None] * steps).sum(0)
    mean = prob @ gain
    return mean, (prob @ gain.square().sum(-1) - mean.square().sum()).item()


def rto(world: World) -> list[Finding]:
    """Token rewards beta log p*/p0 of a DPO model in place of r at the end (RTO, arXiv 2404.18922).

    Both with the KL of each token in the reward, and with the rewards from a token on as its
    advantage. The two advantages differ by log E_p0[exp(r/beta) | tokens so far], the soft value of
    the prefix: token rewards are a baseline. The noise of a reward at the end depends on the zero
    of r. With the mean of r/beta - KL as the baseline it does not.
    """

    def moments(world: World) -> list[tuple[Tensor, float]]:
        """Moments with token rewards, a reward at the end, and the latter with its mean."""
        prob, steps = world.log_guide.exp(), token_scores(world, world.log_guide)
        of_tokens, of_end = _advantages(world, world.log_guide)
        every = (of_tokens, of_end, of_end - prob @ of_end[0])
        return [_moments(prob, advantage, steps) for advantage in every]

    own, end = _advantages(world, world.log_guide)
    places = range(world.truth.support.shape[-1])
    values = torch.stack([soft_value(world, world.log_joint, t) for t in places])
    at_target = _advantages(world, world.log_posterior)
    errors = [relative_error(mean, elbo_of(world)) for mean, _ in moments(world)[:2]]
    noises = [[noise for _, noise in moments(case)] for case in cases()]
    of_tokens, of_end, with_mean = torch.tensor(noises, dtype=torch.float64).log().T
    subject = "away from p*, log of the noise, token rewards less a reward at the end"
    at_end = "largest advantage at q = p*, a reward at the end, nats"
    of_values = "difference of the two advantages - soft value of the tokens so far, nats"
    return [
        exact("mean gradient - grad ELBO, token rewards and a reward at the end", *errors),
        exact(of_values, end - own - values),
        exact("largest advantage at q = p*, token rewards, nats", at_target[0]),
        within(at_end, at_target[1].abs().max(), above=1.0),
        paired(subject, of_tokens, of_end, below=0.0),
        paired(f"{subject} and its mean as the baseline", of_tokens, with_mean, above=0.0),
    ]


def _advantages(world: World, log_guide: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages of each token, `[T, S]`, by token rewards and by the reward at the end, nats."""
    places = range(world.truth.support.shape[-1])
    of_guide, of_prior, of_target = (
        torch.stack([next_token(world, log, t) for t in places])
        for log in (log_guide, world.log_prior, world.log_posterior)
    )
    tokens, sparse = of_target - of_guide, of_prior - of_guide
    by_tokens, by_end = (each.flip(0).cumsum(0).flip(0) for each in (tokens, sparse))
    return by_tokens, by_end + world.reward / world.model.beta


def opo(world: World) -> list[Finding]:
    """Mean of rewards weighed by length, or by squared scores (OPO, arXiv 2505.23585).

    Scores are gradients of log q by the parameters of the network.
    """
    score, reward, prob = _scores_of_network(world), world.reward, world.log_guide.exp()
    exact_mean = prob @ (reward[:, None] * score)
    weight, (first, second), (one, other) = (
        prob[:, None] * prob,
        pairs(reward),
        pairs(world.length),
    )
    baseline = (one * first + other * second) / (one + other)
    coefficient = (weight * (first - baseline)).sum(1) + (weight * (second - baseline)).sum(0)
    cosine = torch.cosine_similarity(coefficient @ score, exact_mean, dim=0).item()
    by_score, by_length = torch.tensor([_gains(case) for case in cases(NETWORKS)]).T
    subject = "share of the noise taken that the mean reward as the baseline has"
    adds_noise = Estimate.of_share((by_length < 0)[:, None].double())
    more_noise = (
        f"weights of length add noise, share of {NETWORKS} cases (mean {subject}: "
        f"{by_length.mean():.2g})"
    )
    return [
        over_cases(f"weights of squared scores, the least noise, {subject}", by_score, above=0.0),
        within(more_noise, adds_noise, above=0.1),
        within("groups of 2, 1 - cosine of mean gradient and gradient", 1 - cosine, above=1e-6),
    ]


def _gains(world: World) -> tuple[float, float]:
    """Shares of the noise taken by weights of squared scores, and by weights of length."""
    reward, prob, score = world.reward, world.log_guide.exp(), _scores_of_network(world)
    squares = score.square().sum(-1)
    of_mean = (prob @ (reward[:, None] * score)).square().sum()

    def left(weight: Tensor) -> Tensor:
        baseline = (prob @ (weight * reward)) / (prob @ weight)
        return prob @ ((reward - baseline).square() * squares) - of_mean

    by_score, by_length, plain = map(left, (squares, world.length, torch.ones_like(reward)))
    return (1 - by_score / plain).item(), (1 - by_length / plain).item()


def _scores_of_network(world: World) -> Tensor:
    """grad log q of each response by the parameters of the guide, `[S, P]`."""
    parameters = [p for p in world.guide.parameters() if p.requires_grad]
    log_guide = log_guide_at(world.guide, world.prompts, world.truth.support)[:, 0]
    rows = [torch.autograd.grad(log_q, parameters, retain_graph=True) for log_q in log_guide]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])

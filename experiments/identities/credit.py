"""Credit for single tokens: values of prefixes by more draws, and baselines by length."""

from itertools import pairwise

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.gradients import elbo_of
from experiments.identities.prefixes import given, next_token, soft_value
from experiments.identities.residuals import pairs
from experiments.identities.world import World, noise
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference.programs import log_guide_at


def rollouts(world: World) -> list[Finding]:
    """Advantages by values of prefixes, each a mean of draws (VinePPO, arXiv 2410.01679).

    The error of a value multiplies the score of the token before less that of the token after. The
    baseline of all draws is the mean of log w, of very many draws.
    """
    log_weight, prob = world.log_joint - world.log_guide, world.log_guide.exp()
    tables = [given(world, world.log_guide, t) for t in range(world.truth.support.shape[-1] + 1)]
    values = [table @ log_weight for table in tables]
    variances = [table @ log_weight.square() - (table @ log_weight).square() for table in tables]
    steps = [after - before for before, after in pairwise(tables)]  # scores of tokens
    gains = [after - before for before, after in pairwise(values)]
    gain = torch.stack([g[:, None] * step for g, step in zip(gains, steps, strict=True)]).sum(0)
    mean = prob @ gain
    of_exact = (prob @ gain.square().sum(-1) - mean.square().sum()).item()
    before = [torch.zeros_like(steps[0]), *steps[:-1]]
    changes = [(last - step).square().sum(-1) for last, step in zip(before, steps, strict=True)]
    of_draws = sum((prob * v) @ change for v, change in zip(variances, changes, strict=False))
    plain = noise(world.log_guide, log_weight - prob @ log_weight)
    length = world.length
    # A prefix of t tokens of a response of n tokens goes on for as many as a response has after t.
    tokens, of_prefixes = prob @ length, prob @ (length * (length + 1) / 2)

    def share(draws: int) -> float:
        return float(of_exact + of_draws / draws) / plain

    cost = [share(draws) * (1 + draws * of_prefixes / tokens).item() for draws in (1, 9)]
    subject = "noise over that of the mean of all draws as the baseline"
    return [
        exact("mean gradient - grad ELBO", relative_error(mean, elbo_of(world))),
        within(f"9 draws of each prefix, {subject}", share(9), below=1.0),
        within(f"exact values, {subject}", of_exact / plain, below=1.0),
        within(f"1 draw of each prefix, {subject}", share(1), above=1.0),
        within(f"1 and 9 draws, at equal tokens drawn, {subject}", *cost, above=1.0),
    ]


def token_rewards(world: World) -> list[Finding]:
    """Token rewards beta log p*/p0 of a DPO model in place of r at the end (RTO, arXiv 2404.18922).

    Both with the KL of each token in the reward, and with the rewards from a token on as its
    advantage. The two advantages differ by log E_p0[exp(r/beta) | tokens so far], the soft value of
    the prefix: token rewards are a baseline. The noise of a reward at the end depends on the zero
    of r. With the mean of r/beta - KL as the baseline it does not.
    """
    prob, places = world.log_guide.exp(), range(world.truth.support.shape[-1])
    tables = [given(world, world.log_guide, t) for t in (*places, len(places))]
    steps = [after - before for before, after in pairwise(tables)]

    def moments(advantage: list[Tensor]) -> tuple[Tensor, float]:
        """Mean and noise of the gradient of one draw of the guide."""
        terms = [a[:, None] * step for a, step in zip(advantage, steps, strict=True)]
        gain = torch.stack(terms).sum(0)
        mean = prob @ gain
        return mean, (prob @ gain.square().sum(-1) - mean.square().sum()).item()

    both = _advantages(world, world.log_guide)
    (of_tokens, noise_of_tokens), (of_end, noise_of_end) = map(moments, both)
    baseline = prob @ both[1][0]
    _, noise_with_baseline = moments([advantage - baseline for advantage in both[1]])
    values = [soft_value(world, world.log_joint, t) for t in places]
    gaps = [end - own - value for own, end, value in zip(*both, values, strict=True)]
    at_target = _advantages(world, world.log_posterior)
    largest = [max(a.abs().max().item() for a in part) for part in at_target]
    truth = elbo_of(world)
    errors = [relative_error(mean, truth) for mean in (of_tokens, of_end)]
    return [
        exact("mean gradient - grad ELBO, token rewards and a reward at the end", *errors),
        exact("difference of the two advantages - soft value of the tokens so far, nats", *gaps),
        exact("largest advantage at q = p*, token rewards, nats", largest[0]),
        within("largest advantage at q = p*, a reward at the end, nats", largest[1], above=1.0),
        within(
            "noise with token rewards over noise with a reward at the end, away from p*",
            noise_of_tokens / noise_of_end,
            below=1.0,
        ),
        within(
            "noise with token rewards over noise with a reward at the end and its mean as the "
            "baseline, away from p*",
            noise_of_tokens / noise_with_baseline,
            above=1.0,
        ),
    ]


def _advantages(world: World, log_guide: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Advantages of each token, by token rewards and by the reward at the end, nats."""
    places = range(world.truth.support.shape[-1])
    of_guide, of_prior, of_target = (
        torch.stack([next_token(world, log, t) for t in places])
        for log in (log_guide, world.log_prior, world.log_posterior)
    )
    tokens, sparse = of_target - of_guide, of_prior - of_guide
    at_end = world.reward / world.model.beta
    return [tokens[t:].sum(0) for t in places], [sparse[t:].sum(0) + at_end for t in places]


def optimal_baseline(world: World) -> list[Finding]:
    """Mean of rewards weighed by length, or by squared scores (OPO, arXiv 2505.23585).

    Scores are gradients of log q by the parameters of the network.
    """
    reward, prob = world.reward, world.log_guide.exp()
    length = world.length
    score = _scores_of_network(world)
    squares = score.square().sum(-1)

    def left(weight: Tensor) -> float:
        baseline = (prob @ (weight * reward)) / (prob @ weight)
        second = prob @ ((reward - baseline).square() * squares)
        return (second - (prob @ (reward[:, None] * score)).square().sum()).item()

    by_score, by_length, plain = map(left, (squares, length, torch.ones_like(reward)))
    exact_mean = prob @ (reward[:, None] * score)
    weight, (first, second), (one, other) = prob[:, None] * prob, pairs(reward), pairs(length)
    baseline = (one * first + other * second) / (one + other)
    coefficient = (weight * (first - baseline)).sum(1) + (weight * (second - baseline)).sum(0)
    cosine = torch.cosine_similarity(coefficient @ score, exact_mean, dim=0).item()
    gain, subject = plain - by_score, "share of the noise that the mean reward as the baseline has"
    return [
        within(
            f"weights of squared scores, the largest gain by a theorem, {subject}",
            gain / plain,
            above=0.0,
        ),
        within("weights of length, share of this gain", (plain - by_length) / gain, above=0.5),
        within("groups of 2, 1 - cosine of mean gradient and gradient", 1 - cosine, above=1e-6),
    ]


def _scores_of_network(world: World) -> Tensor:
    """grad log q of each response by the parameters of the guide, `[S, P]`."""
    parameters = [p for p in world.guide.parameters() if p.requires_grad]
    log_guide = log_guide_at(world.guide, world.prompts, world.truth.support)[:, 0]
    rows = [torch.autograd.grad(log_q, parameters, retain_graph=True) for log_q in log_guide]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])

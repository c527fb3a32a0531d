"""Credit for single tokens: values of prefixes by more draws, and baselines by length."""

import torch
from torch import Tensor

from experiments.identities.findings import exact, most_less, over_cases, paired
from experiments.identities.gradients import elbo_of, token_scores
from experiments.identities.prefixes import given, next_token, soft_value
from experiments.identities.residuals import pairs
from experiments.identities.world import World, cases, noise
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference import Estimate
from inference.objectives.reward_to_go import telescoped
from inference.programs import log_guide_at

FIXED, ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0), (0.5, 1.0, 2.0, 4.0, 8.0)
"""Rates of GAE for all responses, and numbers of VAPO's rate by length."""
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
    noises = [[noise for _, noise in moments(case)] for case in cases(priors=True)]
    of_tokens, of_end, with_mean = torch.tensor(noises, dtype=torch.float64).log().T
    subject = "away from p*, log of the noise, token rewards less a reward at the end"
    more_noise = "away from p*, more noise of token rewards than of a reward at the end"
    at_end = "largest advantage at q = p*, a reward at the end, nats"
    of_values = "difference of the two advantages - soft value of the tokens so far, nats"
    return [
        exact("mean gradient - grad ELBO, token rewards and a reward at the end", *errors),
        exact(of_values, end - own - values),
        exact("largest advantage at q = p*, token rewards, nats", at_target[0]),
        within(at_end, at_target[1].abs().max(), above=1.0),
        paired(subject, of_tokens, of_end, below=0.0),
        most_less(f"{more_noise} and its mean as the baseline", with_mean, of_tokens),
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


def vapo(world: World) -> list[Finding]:
    """GAE with l = 1 - 1/(alpha n) for a response of n tokens (VAPO, arXiv 2504.05118).

    Values of prefixes are exact, or have errors of 1 nat, one of each prefix. The squared error of
    the gradient of one draw is bias and noise. The best number of each grid has the least, in the
    mean over cases.
    """
    fixed = [torch.tensor(rate, dtype=torch.float64) for rate in FIXED]

    def by_length(case: World) -> list[Tensor]:
        return [(1 - 1 / (alpha * case.length)).clamp(min=0) for alpha in ALPHAS]

    at_target = _errors_of_values(world, world.log_posterior)
    exact_values = [_gae(world, _errors_of_values(world, world.log_guide), rate) for rate in fixed]
    biases, errors = [], []
    for seed, case in enumerate(cases()):
        values = _errors_of_values(case, case.log_guide)
        biases.append(_gae(case, values, by_length(case)[0])[0])
        noisy = _errors_of_values(case, case.log_guide, seed)
        errors.append([_gae(case, noisy, rate)[1] for rate in (*fixed, *by_length(case))])
    of_fixed, of_length = (
        torch.tensor(errors, dtype=torch.float64).log().tensor_split([len(FIXED)], 1)
    )
    least = [of_rates[:, of_rates.mean(0).argmin()] for of_rates in (of_length, of_fixed)]
    subject = "values with errors, log of the squared error, best alpha less best fixed rate"
    bias = f"alpha {ALPHAS[0]:g}, exact values, error of the mean gradient over grad ELBO"
    return [
        exact("largest error of a value at q = p*, exact values, nats", at_target),
        exact(
            "fixed rates, exact values, mean gradient - grad ELBO", *(e for e, _ in exact_values)
        ),
        over_cases(bias, biases, above=1e-3),
        paired(subject, *least, below=0.0),
    ]


def _errors_of_values(world: World, log_guide: Tensor, seed: int | None = None) -> Tensor:
    """Rewards to go less values of prefixes, `[T, S]`, nats; with a seed, of values with errors."""
    _, to_go = _advantages(world, log_guide)
    generator = torch.Generator().manual_seed(seed or 0)
    errors = []
    for t, each in enumerate(to_go):
        table = given(world, log_guide, t)
        error = torch.randn(len(each), generator=generator, dtype=torch.float64)
        of_prefix = error[(table > 0).int().argmax(1)] * (t < world.length)
        errors.append(each - table @ each - (0.0 if seed is None else of_prefix))
    return torch.stack(errors)


def _gae(world: World, errors: Tensor, rate: Tensor) -> tuple[float, float]:
    """Relative error of the mean gradient with a rate `[]` or `[S]`; squared error of one draw."""
    advantage = telescoped(errors.T, rate).T
    steps, truth = token_scores(world, world.log_guide), elbo_of(world)
    mean, of_draw = _moments(world.log_guide.exp(), advantage, steps)
    return relative_error(mean, truth), of_draw + (mean - truth).square().sum().item()


def otb(_: World) -> list[Finding]:
    """Baselines of places: means by squared scores so far, by those of the token (2602.07078).

    Each prefix has logits of its own, whose scores are orthogonal: the squared norm of the gradient
    of one draw is a sum over its tokens. Its mean gradient is the same with every baseline.
    """
    rows = []
    for world in cases():
        prob, to_go = world.log_guide.exp(), _advantages(world, world.log_guide)[1]
        alive = (torch.arange(len(to_go))[:, None] < world.length).double()
        squares = alive * _squared_scores(world)
        row = []
        for weight in (squares, squares.cumsum(0) * alive, alive):
            baseline = (prob * weight * to_go).sum(1) / (prob * weight).sum(1)
            row.append((squares * (to_go - baseline[:, None]).square() @ prob).sum().log().item())
        rows.append(row)
    logs = torch.tensor(rows, dtype=torch.float64)
    of_token, so_far = (logs[:, :2] - logs[:, 2:]).T
    subject = "log of the mean squared gradient of a draw over that of equal weights"
    return [
        over_cases(f"{subject}, scores so far", so_far.tolist(), below=0.0),
        paired(f"{subject}, scores so far less scores of the token", so_far, of_token, above=0.0),
    ]


def _squared_scores(world: World) -> Tensor:
    """1 - 2 q_t + sum_v q_t(v)^2 of each token, `[T, S]`."""
    squares = []
    for t in range(world.truth.support.shape[-1]):
        prob = next_token(world, world.log_guide, t).exp()
        squares.append(1 - 2 * prob + given(world, world.log_guide, t) @ prob)
    return torch.stack(squares)


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

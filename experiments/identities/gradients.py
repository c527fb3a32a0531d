"""Gradient estimators: their means and their noise, enumerated."""

import torch
from torch import Tensor

from experiments.identities.findings import either_order, exact, over_cases, paired
from experiments.identities.prefixes import given, next_token
from experiments.identities.residuals import pairs
from experiments.identities.world import World, cases, gradient_at, mean_gradient, noise, scores
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference import DIVERGENCES
from inference.objectives.leave_one_out import leave_one_out

SIZES = (2, 4, 16)
"""Numbers of draws."""


def token_scores(world: World, log_guide: Tensor) -> Tensor:
    """grad log q_t of each token of each response by the logits of all responses, `[T, S, S]`."""
    places = range(world.truth.support.shape[-1] + 1)
    return torch.stack([given(world, log_guide, t) for t in places]).diff(dim=0)


def black_box(world: World) -> list[Finding]:
    """Score-function gradient of the ELBO, and its control variates (arXiv 1401.0118)."""
    q, log_weight = world.log_guide.exp(), world.log_joint - world.log_guide
    score = scores(world.log_guide)
    mean = mean_gradient(world.log_guide, world.log_guide, log_weight)
    terms = log_weight[:, None] * score
    scale = (q @ (terms * score)) / (q @ score.square())  # optimal for each component
    controlled = terms - scale * score
    left = (q @ controlled.square() - (q @ controlled).square()).sum().item()
    ratio = left / noise(world.log_guide, log_weight)
    return [
        exact("mean of log w grad log q - grad ELBO", relative_error(mean, elbo_of(world))),
        within("noise with control variates over noise without", ratio, below=1.0),
    ]


def elbo_of(world: World) -> Tensor:
    """Gradient of the exact ELBO by the logits of q, `[S]`, by autograd."""
    return gradient_at(
        world.log_guide, lambda log_q: (log_q.exp() * (world.log_joint - log_q)).sum()
    )


def leave_one_out_check(world: World) -> list[Finding]:
    """Leave-one-out: mean over pairs, noise for K draws (Kool, van Hoof and Welling 2019).

    For K draws the estimate is the mean of h(x, y) = (log w(x) - log w(y)) (s(x) - s(y))/2 over
    pairs of draws, for the score s: the noise follows from the noise of h, and of its mean given x.
    """
    means, ratios = zip(*map(_of_pairs, (world, *cases(priors=True))), strict=True)
    of_two, *of_more = torch.tensor(ratios[1:], dtype=torch.float64).T
    over = "noise with leave-one-out over noise without, log"
    return [
        exact("mean over all pairs - grad ELBO", *means),
        either_order(f"{SIZES[0]} draws, {over} below 0", of_two, torch.zeros_like(of_two)),
        *(
            over_cases(f"{k} draws, {over}", each, below=0.0)
            for k, each in zip(SIZES[1:], of_more, strict=True)
        ),
    ]


def _of_pairs(world: World) -> tuple[float, list[float]]:
    """Error of the mean over pairs, and logs of noise over noise without a baseline, by `SIZES`."""
    log_weight = world.log_joint - world.log_guide
    score, prob = scores(world.log_guide), world.log_guide.exp()
    first, second = leave_one_out(pairs(log_weight))
    weight = prob[:, None] * prob
    mean = ((weight * first).sum(1) @ score + (weight * second).sum(0) @ score) / 2
    differences = torch.cdist(score, score).square()
    of_pair = (weight * first.square() * differences / 4).sum() - mean.square().sum()
    given_first = ((first @ prob)[:, None] * score - (first * prob) @ score) / 2
    of_one = prob @ given_first.square().sum(-1) - mean.square().sum()
    plain = noise(world.log_guide, log_weight)
    left = [(4 * (k - 2) * of_one + 2 * of_pair) / (k - 1) / plain for k in SIZES]
    return relative_error(mean, elbo_of(world)), [each.log().item() for each in left]


def greedy(world: World) -> list[Finding]:
    """log w of the greedy response as the baseline (ReMax, arXiv 2310.10505), noise of one draw.

    Here with the KL in the reward, and in the baseline.
    """

    def noises(world: World, log_guide: Tensor) -> list[float]:
        """Noise with the greedy baseline, and without."""
        log_weight = world.log_joint - log_guide
        baselines = (log_weight[greedy_response(world, log_guide)], 0.0)
        return [noise(log_guide, log_weight - each) for each in baselines]

    log_guide, log_weight = world.log_guide, world.log_joint - world.log_guide
    centred = log_weight - log_weight[greedy_response(world, log_guide)]
    mean = mean_gradient(log_guide, log_guide, centred)
    numbers = [noises(case, case.log_guide) for case in cases(priors=True)]
    with_greedy, plain = torch.tensor(numbers, dtype=torch.float64).log().T
    subject = "away from p*, log of the noise, greedy baseline less none"
    return [
        exact("mean with the baseline - grad ELBO", relative_error(mean, elbo_of(world))),
        exact("noise with the greedy baseline, at q = p*", noises(world, world.log_posterior)[0]),
        paired(subject, with_greedy, plain, below=0.0),
    ]


def greedy_response(world: World, log_guide: Tensor) -> int:
    """Number of the response whose tokens are each the most likely next token."""
    response = world.truth.support[:, 0]
    best = torch.ones(len(response), dtype=torch.bool)
    for t in range(response.shape[1]):
        step = next_token(world, log_guide, t).masked_fill(~best, -torch.inf)
        best = best & (response[:, t] == response[step.argmax(), t])
    return int(best.int().argmax())


def landing(world: World) -> list[Finding]:
    """Noise at the posterior (arXiv 1703.09194 for reparameterized sites)."""
    log_posterior = world.log_posterior
    log_weight = world.log_joint - log_posterior
    fisher = noise(log_posterior, torch.ones_like(log_weight))
    plain = noise(log_posterior, log_weight) / (world.log_z**2 * fisher)
    return [
        exact("leave-one-out at q = p*, on every pair", leave_one_out(pairs(log_weight))),
        exact("noise without a baseline at q = p* over (log Z)^2 tr F, less 1", plain - 1),
    ]


def f_dpg(world: World) -> list[Finding]:
    """E_q[f'(q/p*) grad log q] against autograd of D_f (f-DPG, arXiv 2302.08215)."""
    errors = []
    for divergence in DIVERGENCES.values():
        logits = world.log_guide.clone().requires_grad_()
        log_guide = logits.log_softmax(-1)
        log_u = world.log_posterior - log_guide
        (by_autograd,) = torch.autograd.grad(
            (log_guide.exp() * divergence.value(log_u)).sum(), logits
        )
        slope = divergence.slope(log_u.detach())
        mean = mean_gradient(world.log_guide, world.log_guide, slope)
        errors.append(relative_error(mean, by_autograd))
    return [exact(f"mean gradient of {len(errors)} divergences - autograd", *errors)]


def gdc_plus_plus(world: World) -> list[Finding]:
    """Distributional policy gradient with and without a baseline (GDC++, arXiv 2206.00761)."""

    def noises(log_guide: Tensor) -> tuple[float, float]:
        ratio = (world.log_joint - log_guide).exp()
        z = world.truth.log_z.exp().item()
        return noise(log_guide, ratio - z), noise(log_guide, ratio)

    away, at = noises(world.log_guide), noises(world.log_posterior)
    return [
        exact("noise with the baseline at q = p*", at[0]),
        within("noise without the baseline at q = p*", at[1], above=0.01),
        within("noise with over without, away from p*", away[0] / away[1], below=1),
    ]


def max_rl(world: World) -> list[Finding]:
    """log p(success) as a sum over pass@k (MaxRL, arXiv 2602.02710)."""
    success = world.reward > 0.5
    log_guide = world.log_guide
    prob = log_guide.exp()
    rate = prob[success].sum()
    gradient = (prob * success) @ scores(log_guide)  # of the rate
    terms = 2000
    series = ((1 - rate) ** torch.arange(terms)).sum() * gradient
    given = mean_gradient(
        log_guide.masked_fill(~success, -torch.inf).log_softmax(0), log_guide, torch.ones_like(prob)
    )
    return [
        exact(f"sum of grad pass@k / k, {terms} terms - grad log p", relative_error(series, given)),
        exact("mean score of the successes - grad p / p", relative_error(given, gradient / rate)),
    ]

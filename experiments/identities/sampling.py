"""Samplers: bounds on log Z, unbiased estimates, and the quality of weights, with errors."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, agrees, exact
from experiments.identities.prefixes import masses, soft_value, twist_of
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference import Estimate, random_state, sequential_monte_carlo
from inference.estimate import log_mean
from inference.importance_weights import pareto_k
from inference.samplers.log_z_bounds import log_z_bounds
from inference.samplers.quasi_rejection import quasi_rejection
from inference.samplers.twist import Twist
from model import AlignmentModel, Prompts

RUNS = 200
"""Number of runs of a sampler behind a mean."""
FORBIDDEN = 3
"""Token id of the word that a constraint rules out."""


def iwae(world: World) -> list[Finding]:
    """E[log mean of K weights] grows with K, to log Z (IWAE, arXiv 1509.00519)."""
    log_weight, prob = world.log_joint - world.log_guide, world.log_guide.exp()
    two = bound_of_two(log_weight, prob)
    one = (prob @ log_weight).item()
    bounds = {1: Estimate(one, 0.0), 2: Estimate(two, 0.0)}
    with random_state.isolated(0):
        for size in (8, 64):
            draws = world.draws(world.log_guide, size, 4000)
            bounds[size] = Estimate.of_mean(log_mean(log_weight[draws])[:, None])
    findings = []
    for small, large in pairwise(bounds):
        subject = f"bound of {large} less that of {small}, nats"
        findings.append(within(subject, bounds[large].minus(bounds[small]), above=0.0))
    slack = Estimate(world.log_z, 0.0).minus(bounds[64])
    return [*findings, within("log Z less the bound of 64, nats", slack, above=0.0)]


def bound_of_two(log_weight: Tensor, prob: Tensor) -> float:
    """E[log mean of two weights], nats, for draws with probabilities `[S]`."""
    of_pairs = torch.logaddexp(log_weight[:, None], log_weight) - math.log(2)
    return (prob @ of_pairs @ prob).item()


def smc_bounds(world: World) -> list[Finding]:
    """Bounds on log Z from both sides, by runs with and without an exact draw (2404.17546)."""
    with random_state.isolated(0):
        draws = world.draws(world.log_posterior, RUNS)
        bounds = partial(log_z_bounds, world.model, world.prompts, world.truth.support[draws])
        lower, upper = bounds(num_samples=4, twist=likely(world), ess_threshold=2.0)
        one = bounds(num_samples=1)
    log_p, log_q = world.log_posterior, world.log_prior
    both = kl(log_p, log_q) + kl(log_q, log_p)
    log_z = Estimate(world.log_z, 0.0)
    return [
        within("log Z less the lower bound, nats", log_z.minus(lower), above=0.0),
        within("upper bound less log Z, nats", upper.minus(log_z), above=0.0),
        agrees("one particle, upper - lower against KL(q || p*) + KL(p* || q)", one.gap, both),
    ]


def likely(world: World) -> Twist:
    """Half of the best twist, log E_p0[likelihood given the prefix]."""
    return twist_of(world, lambda t: 0.5 * soft_value(world, world.log_joint, t))


def smc_steering(world: World) -> list[Finding]:
    """A hard constraint: masking tokens is not the posterior, SMC is (arXiv 2306.03081).

    The word 3 is forbidden. Masked decoding draws from p0 of the allowed tokens at each prefix.
    """
    support = world.truth.support[:, 0]
    is_good = (support != FORBIDDEN).all(-1)
    log_given = world.log_prior.masked_fill(~is_good, -torch.inf)
    log_z, log_given = log_given.logsumexp(0), log_given.log_softmax(0)
    log_masked = world.log_prior.clone()
    for t in range(support.shape[1]):
        prefix = support[:, :t]
        banned = torch.cat([prefix, torch.full_like(support[:, :1], FORBIDDEN)], 1)
        logs = [masses(world.log_prior, support, rows) for rows in (prefix, banned)]
        log_masked = log_masked - torch.log1p(-(logs[1] - logs[0]).exp())
    log_weight = (world.log_prior - log_masked)[is_good]
    error = (log_masked[is_good] + log_weight).logsumexp(0) - log_z
    good, masked = log_given[is_good], log_masked[is_good]
    allowed = Allowed()
    model = AlignmentModel(world.model.prior, {}, 1.0, factors={"allowed": allowed})
    with random_state.isolated(0):
        ratio = log_z_of_runs(world, model, allowed.twist) - log_z
    return [
        exact("masked decoding, sum over allowed responses - 1", masked.logsumexp(0)),
        within("masked decoding, KL(p* || q), nats", kl(good, masked), above=DISTINCT),
        exact("masked decoding with weights, log E[w] - log Z", error),
        agrees("SMC of 16 particles, mean of Z_hat/Z", Estimate.of_mean(ratio.exp()), 1.0),
    ]


@dataclass(frozen=True)
class Allowed:
    """The factor that rules a word out, nats."""

    unit = "nat"

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        return torch.where((response == FORBIDDEN).any(-1), -torch.inf, 0.0)

    def twist(self, prompts: Prompts, response: Tensor, t: int) -> Tensor:
        """The same for the first t tokens."""
        return self(prompts, response[..., :t])


def log_z_of_runs(world: World, model: AlignmentModel, twist: Twist, **options: Any) -> Tensor:
    """log Z_hat of each run of SMC with 16 particles, `[RUNS, 1]`, nats."""
    copies = world.prompts[[0] * RUNS]
    posterior = sequential_monte_carlo(model, copies, num_samples=16, twist=twist, **options)
    assert posterior.log_z is not None
    return posterior.log_z[:, None]


def pareto(_: World) -> list[Finding]:
    """k-hat of weights with a known tail, and the error of their mean (arXiv 1507.02646)."""
    findings, errors = [], {}
    with random_state.isolated(0):
        for shape in (0.3, 0.9):
            log_weight = -shape * torch.rand(2000, RUNS, dtype=torch.float64).log()
            k_hat = Estimate.of_mean(pareto_k(log_weight)[:, None])
            subject = f"k-hat of weights with k = {shape:g}, 2,000 draws"
            error = abs(k_hat.value - shape)
            findings.append(
                Finding(f"{subject}: {k_hat.value:.3f} ± {k_hat.standard_error:.1g}", error < 0.1)
            )
            true_mean = 1 / (1 - shape)
            errors[shape] = (log_mean(log_weight).exp() / true_mean - 1).abs()[:, None]
    low, high = (Estimate.of_mean(error) for error in errors.values())
    findings.append(within("relative error of the mean at k = 0.3", low, below=0.05))
    findings.append(within("relative error of the mean at k = 0.9", high, above=0.2))
    return findings


def quasi_rejection_check(_: World) -> list[Finding]:
    """Quasi-rejection from Poisson(10) to Poisson(11), bound b (arXiv 2112.05702)."""
    counts = torch.arange(200, dtype=torch.float64)
    log_target, log_proposal = (
        torch.distributions.Poisson(torch.tensor(rate, dtype=torch.float64)).log_prob(counts)
        for rate in (11.0, 10.0)
    )
    rows = {b: quasi_rejection(log_target, log_proposal, math.log(b)) for b in (1, 2, 3)}
    acceptance = [row.acceptance.item() for row in rows.values()]
    distance = [row.total_variation.item() for row in rows.values()]
    start = 0.5 * (log_target.exp() - log_proposal.exp()).abs().sum().item()
    excess = [(row.total_variation - row.total_variation_bound).item() for row in rows.values()]
    shares = ", ".join(f"{value:.4f}" for value in acceptance)
    distances = ", ".join(f"{value:.3g}" for value in [start, *distance])
    return [
        Finding(
            f"total variation of proposal, b = 1, 2, 3: {distances}; acceptance: {shares}",
            distance == sorted(distance, reverse=True) and distance[0] < start,
        ),
        within("total variation less its bound", *excess, below=1e-12),
    ]


def guard(world: World) -> list[Finding]:
    """KL(g || a) = KL(g || filtered a) - log(acceptance) (GUARD, arXiv 2410.06716)."""
    is_good = world.reward > 0.5
    log_g, log_a_f = (
        log_prob[is_good].log_softmax(0) for log_prob in (world.log_prior, world.log_guide)
    )
    log_rate = world.log_guide[is_good].logsumexp(0).item()
    error = kl(log_g, world.log_guide[is_good]) - kl(log_g, log_a_f) + log_rate
    return [exact("KL(g || a) - KL(g || filtered a) + log(acceptance), nats", error)]

"""Squared residuals: the effect of each choice of log Z, with draws of the guide and of the prior.

Claim: with draws of the guide, every choice has the mean gradient of KL(q || p*), and changes the
noise alone. With draws of another sampler, the target is the posterior if the constant is log Z,
learned, or a mean over the batch; a wrong constant moves the target. At the target the noise is 0
if the constant is log Z or of the batch.
Source: A*-PO, arXiv 2505.20686; REBEL, arXiv 2404.16767; QRPO, arXiv 2507.08068; VarGrad, arXiv
2010.10436; derived and enumerated here.
Printed: relative error of the mean gradient on-policy; standard deviation of the gradient of a few
responses, over the norm of the mean at a guide half way, and absolute at the target; KL from the
minimum to the target with draws of the prior. Each is a sum over all responses, or a minimum of
such a sum.

    python -m experiments.log_z
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from experiments.shared.argument_types import Seed, count, number
from experiments.shared.claims import ClaimArguments, Finding, conclude, largest, within
from experiments.shared.command_line import run_script
from experiments.shared.gradients import relative_error
from experiments.shared.tables import table_of
from inference.objectives.squared_residual import log_z_of_quantile
from inference.order_statistics import level_cdf
from inference.targets.fixed_points import Problem
from model.common.minimise import minimise

NUM_RESPONSES = 21
"""Number S of responses; the guide has a logit for each."""
ZERO, APART = 1e-10, 1e-6
"""Largest error of a number that is 0 exactly; smallest KL of another target, nats."""
OUTSIDE = "outside, the differences are rounding"
BIAS, NOISE, AT_TARGET, KL = "bias", "noise", "noise at target", "KL off-policy"


@dataclass(frozen=True)
class LogZ(ClaimArguments):
    """Enumerate bias, noise and target of squared residuals for every choice of log Z."""

    beta: Annotated[float, number(at_least=0.03, at_most=2, why=OUTSIDE)] = 0.5
    """Reward per nat, for rewards of a standard deviation of about 1."""
    particles: Annotated[int, count(2)] = 4
    """Number K of responses in a step."""
    prior_draws: Annotated[int, count(1, 5, "all draws of the prior are listed")] = 4
    """Number of prior draws behind the rough estimate of log Z."""
    seed: Seed = 0
    """Random seed of prior and reward."""


class Choice(NamedTuple):
    """A choice of log Z.

    Attributes:
        log_reward: log of the target over the prior, up to a constant, `[S]`, nats.
        constant: function of the sampler's probabilities and of log w, `[S]` each: c, nats.
        spread: variance of c over the prior draws that estimate c, square nats.
        shares: for a c of the batch, function of K: the shares in the variance of the gradient of
            Var(E[h | x]) and of Var(h), for h the gradient of two responses.
    """

    log_reward: Tensor
    constant: Callable[[Tensor, Tensor], Tensor]
    spread: float = 0.0
    shares: Callable[[int], tuple[float, float]] | None = None


def main(args: LogZ) -> list[Finding]:
    rows = measured(args)
    title = f"{args.particles} responses a step; off-policy, draws of the prior"
    return conclude(__doc__, [table_of(title, rows)], judged(rows))


def measured(args: LogZ) -> dict[str, dict[str, float]]:
    """Numbers by choice and column."""
    problem = world(args.beta, args.seed)
    log_prior = problem.log_prior[:, 0]
    return {
        name: row(choice, log_prior, args.particles)
        for name, choice in choices(problem, args).items()
    }


def world(beta: float, seed: int) -> Problem:
    """Random prior and rewards; a third of the rewards are ties."""
    generator = torch.Generator().manual_seed(seed)
    log_prior, reward = torch.randn(2, NUM_RESPONSES, 1, generator=generator).double()
    reward[:7] = reward[:7].round()
    return Problem((1.5 * log_prior).log_softmax(0), reward, beta)


def choices(problem: Problem, args: LogZ) -> dict[str, Choice]:
    """Choices of log Z by name."""
    log_prior, reward = problem.log_prior[:, 0], problem.reward[:, 0] / problem.beta
    log_z = (log_prior + reward).logsumexp(0)
    rough, spread = rough_log_z(log_prior, reward, args.prior_draws)
    cdf, _ = level_cdf(problem.reward, problem.log_prior.exp())
    formula = torch.tensor(log_z_of_quantile(args.beta))
    return {
        "mean of the batch (VarGrad, TBA)": Choice(reward, mean_of, shares=of_all_pairs),
        "pairs, in a ring (REBEL)": Choice(reward, mean_of, shares=of_ring),
        "learned (trajectory balance)": Choice(reward, mean_of),
        "prior draws without end (A*-PO)": Choice(reward, fixed(log_z)),
        f"{args.prior_draws} prior draws (A*-PO)": Choice(reward, fixed(rough), spread),
        "mean reward (Kimi)": Choice(reward, fixed(log_prior.exp() @ reward)),
        "formula of the quantile (QRPO)": Choice(cdf[:, 0] / args.beta, fixed(formula)),
    }


def fixed(constant: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A constant that depends on neither sampler nor guide."""
    return lambda prob, log_weight: constant


def mean_of(prob: Tensor, log_weight: Tensor) -> Tensor:
    """Mean of log w, which a batch has in the mean, and to which a learned constant converges."""
    return prob @ log_weight


def of_all_pairs(size: int) -> tuple[float, float]:
    """Shares for a mean over all pairs, a U-statistic."""
    num_pairs = size * (size - 1) / 2
    return 2 * (size - 2) / num_pairs, 1 / num_pairs


def of_ring(size: int) -> tuple[float, float]:
    """Shares for a mean over neighbours in a ring."""
    return (0.0, 1.0) if size == 2 else (2 / size, 1 / size)


def rough_log_z(log_prior: Tensor, log_reward: Tensor, num_draws: int) -> tuple[Tensor, float]:
    """Mean and variance of log Z_hat over all draws of the prior."""
    draws = torch.tensor(list(combinations_with_replacement(range(len(log_prior)), num_draws)))
    repeats = torch.nn.functional.one_hot(draws, len(log_prior)).sum(1)
    log_ways = math.lgamma(num_draws + 1) - (repeats + 1).double().lgamma().sum(-1)
    prob = (log_ways + log_prior[draws].sum(-1)).exp()
    log_z_hat = log_reward[draws].logsumexp(-1) - math.log(num_draws)
    mean = prob @ log_z_hat
    return mean, (prob @ (log_z_hat - mean).square()).item()


def row(choice: Choice, log_prior: Tensor, size: int) -> dict[str, float]:
    """Numbers of one choice, with steps of K = `size` responses."""
    log_joint = log_prior + choice.log_reward
    goal = log_joint.log_softmax(0)
    half = ((log_prior + goal) / 2).log_softmax(0)
    residual = half - goal - half.exp() @ (half - goal)
    exact = half.exp() * residual  # gradient of KL(q || target) by the logits
    mean, noise = gradient(choice, half, log_joint, size)
    _, at_target = gradient(choice, goal, log_joint, size)
    log_q = minimum(choice, log_prior, log_joint)
    return {
        BIAS: relative_error(mean, exact),
        NOISE: noise / exact.norm().item(),
        AT_TARGET: at_target,
        KL: (log_q.exp() @ (log_q - goal)).item(),
    }


def gradient(choice: Choice, log_q: Tensor, log_joint: Tensor, size: int) -> tuple[Tensor, float]:
    """Mean gradient by the logits, `[S]`, and its standard deviation for K draws of the guide."""
    q, log_weight = log_q.exp(), log_joint - log_q
    score = torch.eye(len(q)).double() - q  # of each response, [S, S]
    if choice.shares is None:
        residual = log_weight - choice.constant(q, log_weight)
        each = -residual[:, None] * score
        mean = q @ each
        own = q @ (residual.square() + choice.spread)[:, None].mul(score.square()).sum(-1)
        variance = (own - mean.square().sum()) / size
        return mean, variance.clamp(min=0).sqrt().item()
    differences = log_weight[:, None] - log_weight
    pair = -0.5 * differences[..., None] * (score[:, None] - score)  # h, [S, S, S]
    of_first = torch.einsum("j,ijs->is", q, pair)
    mean = q @ of_first
    parts = q @ of_first.square().sum(-1), q @ pair.square().sum(-1) @ q
    variances = [part - mean.square().sum() for part in parts]
    variance = torch.stack(variances) @ torch.tensor(choice.shares(size)).double()
    return mean, variance.clamp(min=0).sqrt().item()


def minimum(choice: Choice, log_sampler: Tensor, log_joint: Tensor) -> Tensor:
    """log q at the minimum of E_a[(log w - c)^2] for a fixed sampler a, `[S]`."""
    logits, prob = log_sampler.clone().requires_grad_(), log_sampler.exp()

    def loss() -> Tensor:
        log_weight = log_joint - logits.log_softmax(0)
        return prob @ (log_weight - choice.constant(prob, log_weight)).square()

    minimise(loss, [logits], max_steps=2000, tolerance_grad=1e-13)
    return logits.detach().log_softmax(0)


def judged(rows: dict[str, dict[str, float]]) -> list[Finding]:
    """Findings about all choices."""
    right = [row for row in rows.values() if row[KL] < ZERO]
    wrong = [row[KL] for row in rows.values() if row[KL] >= ZERO]
    bias = [row[BIAS] for row in rows.values()]
    noise = [row[AT_TARGET] for row in right]
    reached = f"{len(right)} of {len(rows)} choices reach the target off-policy (expected 4)"
    return [
        within("largest bias with draws of the guide", largest(bias), below=ZERO),
        Finding(reached, len(right) == 4),
        within("their largest noise at the target", largest(noise), below=1e-6),
        within("KL of the others to the target, nats", *wrong, above=APART),
    ]


if __name__ == "__main__":
    run_script(main, LogZ)

"""Off-policy corrections of the advantage term: bias and noise of each importance weight.

The sampler is not the learner if an inference engine rounds otherwise, if the batch is some steps
old, or if the sampler cuts the tail of the vocabulary. Trainers multiply the term of each token,
A(x) grad log q_t, by a weight of the ratio q/a.

Claim: only the ratio of the whole response has the gradient of the ELBO, and only if the sampler
can draw every response of the guide. The ratio of the token, the ratio of the prefix and no
correction have a bias that no number of responses removes. Truncated and masked ratios pay with
bias for less noise.
Source: derived and enumerated here. The ratio of the token: PPO, arXiv 1707.06347, and GRPO; its
geometric mean: GSPO, arXiv 2507.18071; truncated: TIS; masked: IcePop, and the default of TRL.
Printed: for three samplers, KL(q || a), and by correction the relative bias of the mean gradient,
the relative standard deviation of the gradient of one response, the relative error of K responses,
and the number of responses at which noise and bias are equal. All are sums over all responses.

    python -m experiments.off_policy
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from experiments.shared.argument_types import Count, Positive, Seed, number
from experiments.shared.claims import ClaimArguments, Finding, conclude, largest, within
from experiments.shared.command_line import run_script
from experiments.shared.tables import table_of
from inference.enumeration import kl

WORDS, TOKENS = 3, 4
"""Number of words in the vocabulary, and of tokens in a response: 81 responses."""
RESPONSE, NEAR, FAR, CUT = "ratio of the response", "near", "far", "without the last word"
BIAS, NOISE = "bias", "noise of one"
ZERO = 1e-10
"""Largest relative bias of a gradient without bias."""


@dataclass(frozen=True)
class OffPolicy(ClaimArguments):
    """Enumerate bias and noise of the corrections of the advantage term."""

    beta: Positive = 0.5
    """Reward per nat, for rewards of standard deviation 1."""
    near: Positive = 0.1
    """Standard deviation of the noise of the near sampler's logits."""
    far: Positive = 0.6
    """Standard deviation of the noise of the far sampler's logits."""
    limit: Annotated[float, number(above=1)] = 3.0
    """Limit C of the ratio: truncated at C, or masked above C; of the token, below 1/C too."""
    particles: Count = 64
    """Number K of responses behind the error."""
    seed: Seed = 0
    """Random seed of prior, reward, guide and samplers."""


class World(NamedTuple):
    """All responses, with tokens of a table of logits for each prefix.

    Attributes:
        log_guide: `[S, T]`, log q of each token, nats.
        score: `[S, T, P]`, gradient of log q of each token by the P logits.
        log_joint: `[S]`, log p0 + r/beta, nats.
        log_samplers: `[S, T]` by name, log a of each token, nats.
    """

    log_guide: Tensor
    score: Tensor
    log_joint: Tensor
    log_samplers: dict[str, Tensor]


Correction = Callable[[Tensor, Tensor], Tensor]
"""Weights `[S, T]` from log q - log a of each token, `[S, T]`, and advantages, `[S, 1]`."""
Rows = dict[str, dict[str, float]]


def main(args: OffPolicy) -> list[Finding]:
    world = make_world(args)
    tables, text = tables_of(world, args), []
    for name, rows in tables.items():
        log_sampler = world.log_samplers[name]
        nats = kl(world.log_guide.sum(-1), log_sampler.sum(-1)).item()
        text.append(table_of(f"sampler {name}, KL(q || a) = {nats:.3g} nats", rows))
    return conclude(__doc__, text, judged(tables))


def tables_of(world: World, args: OffPolicy) -> dict[str, Rows]:
    """Numbers by sampler, correction and column."""
    return {
        name: {
            correction: measured(world, log_sampler, weight, args.particles)
            for correction, weight in corrections(args.limit).items()
        }
        for name, log_sampler in world.log_samplers.items()
    }


def make_world(args: OffPolicy) -> World:
    """Random logits of the prior; a guide on the way to the posterior; three samplers."""
    generator = torch.Generator().manual_seed(args.seed)
    support = torch.tensor(list(product(range(WORDS), repeat=TOKENS)))  # [S, T]
    index = prefixes(support)
    shape = int(index.max()) + 1, WORDS

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    def log_prob(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[index, support]

    prior = noise(1.0)
    reward = torch.randn(len(support), generator=generator, dtype=torch.float64)
    guide = prior + noise(0.5)
    cut = guide.clone()
    cut[:, -1] = -torch.inf
    logits = {NEAR: guide + noise(args.near), FAR: guide + noise(args.far), CUT: cut}
    one_hot = torch.eye(WORDS).double()[support] - guide.softmax(-1)[index]  # [S, T, V]
    score = torch.zeros(*support.shape, *shape).double()
    score.scatter_(2, index[..., None, None].expand(-1, -1, 1, WORDS), one_hot[:, :, None])
    log_joint = log_prob(prior).sum(-1) + reward / args.beta
    samplers = {name: log_prob(each) for name, each in logits.items()}
    return World(log_prob(guide), score.flatten(2), log_joint, samplers)


def prefixes(support: Tensor) -> Tensor:
    """Number of the prefix before each token, `[S, T]`."""
    columns, offset = [], 0
    for t in range(support.shape[1]):
        place = WORDS ** torch.arange(t)
        columns.append(offset + support[:, :t] @ place)
        offset += WORDS**t
    return torch.stack(columns, -1)


def corrections(limit: float) -> dict[str, Correction]:
    """Corrections by name."""

    def of_response(log_ratio: Tensor) -> Tensor:
        return log_ratio.sum(-1, keepdim=True).exp().expand_as(log_ratio)

    def masked(ratio: Tensor, least: float = 0.0) -> Tensor:
        return ratio * ((ratio <= limit) & (ratio >= least))

    def clipped(log_ratio: Tensor, advantage: Tensor) -> Tensor:
        ratio, epsilon = log_ratio.exp(), 0.2
        is_out = torch.where(advantage > 0, ratio > 1 + epsilon, ratio < 1 - epsilon)
        return ratio.masked_fill(is_out, 0.0)

    return {
        "none": lambda log_ratio, _: torch.ones_like(log_ratio),
        "ratio of the token": lambda log_ratio, _: log_ratio.exp(),
        "ratio of the token, clipped (PPO)": clipped,
        "ratio of the token, truncated (TIS)": lambda r, _: r.exp().clamp(max=limit),
        "ratio of the token, masked (IcePop)": lambda r, _: masked(r.exp(), 1 / limit),
        "ratio of the prefix": lambda r, _: r.cumsum(-1).exp(),
        "geometric mean (GSPO)": lambda r, _: r.mean(-1, keepdim=True).exp().expand_as(r),
        RESPONSE: lambda r, _: of_response(r),
        f"{RESPONSE}, truncated": lambda r, _: of_response(r).clamp(max=limit),
        f"{RESPONSE}, masked (TRL)": lambda r, _: masked(of_response(r)),
    }


def measured(world: World, log_sampler: Tensor, weight: Correction, size: int) -> dict[str, float]:
    """Bias and noise of a correction, relative to the norm of the gradient of the ELBO.

    The baseline is the mean of log w over the sampler's responses, as in a large group.
    """
    drawn = log_sampler.sum(-1).exp()  # [S]
    log_weight = world.log_joint - world.log_guide.sum(-1)
    advantage = (log_weight - drawn @ log_weight)[:, None]
    exact = ((world.log_guide.sum(-1).exp() * log_weight)[:, None] * world.score.sum(1)).sum(0)
    is_drawn = drawn > 0
    log_ratio = (world.log_guide - log_sampler)[is_drawn]
    weights = weight(log_ratio, advantage[is_drawn]) * advantage[is_drawn]  # [S, T]
    each = (weights[..., None] * world.score[is_drawn]).sum(1)  # [S, P]
    mean = drawn[is_drawn] @ each
    variance = drawn[is_drawn] @ (each - mean).square().sum(-1)
    bias = ((mean - exact).norm() / exact.norm()).item()
    noise = (variance.sqrt() / exact.norm()).item()
    return {
        BIAS: bias,
        NOISE: noise,
        f"error of {size}": math.hypot(bias, noise / math.sqrt(size)),
        "even at": (noise / bias) ** 2 if bias > ZERO else math.inf,
    }


def judged(tables: dict[str, Rows]) -> list[Finding]:
    """Findings about the three samplers."""
    near, far = tables[NEAR], tables[FAR]
    exact = [near[RESPONSE][BIAS], far[RESPONSE][BIAS]]
    others = {name: row for name, row in far.items() if name != RESPONSE}
    limited = [row[NOISE] for name, row in others.items() if name.startswith(RESPONSE)]
    cut = [row[BIAS] for row in tables[CUT].values()]
    biases = [row[BIAS] for row in others.values()]
    noises = [noise / far[RESPONSE][NOISE] for noise in limited]
    return [
        within("bias of the ratio of the response", largest(exact), below=ZERO),
        within("smallest bias of the others, far", min(biases), above=0.01),
        within("smallest bias without the last word", min(cut), above=0.1),
        within("noise truncated and masked, over that of the ratio", *noises, below=1.0),
    ]


if __name__ == "__main__":
    run_script(main, OffPolicy)

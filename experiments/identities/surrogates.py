"""Surrogates of PPO, GRPO and their relatives as weights of tokens, on draws of another policy."""

from functools import partial
from math import expm1

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.importance_weights import (
    ANGLE,
    CAP,
    NOISE,
    PROBABILITY,
    SHARE,
    Draws,
    compared,
    truncated,
)
from experiments.identities.residuals import minimum
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference.objectives.parts.surrogates import KERNELS, SURROGATES, Limits

CLIP: Limits = (0.2, 0.2)
"""PPO's limits of the ratio of a token, and DPPO's of the change of a probability."""
WIDTH = 0.4
"""GMPO's limit of the log ratio of a token, as in the authors' code."""
clip, free, soft, vespo, limited, geometric, wide = (
    partial(Draws.weights, name=name, clip=limits)
    for name, limits in (
        ("token", CLIP),
        ("token", None),
        ("soft", None),
        ("kernel", None),
        ("divergence", CLIP),
        ("geometric", (WIDTH, WIDTH)),
        ("token", (-expm1(-WIDTH), expm1(WIDTH))),
    )
)


def zero(draws: Draws) -> Tensor:
    """Weights that drop all tokens, `[T, S]`."""
    return torch.zeros_like(draws.tokens)


def soft_gates(world: World) -> list[Finding]:
    """SAPO's gate (arXiv 2511.20347), VESPO's kernel (arXiv 2602.10693), and PPO's clip.

    The kernel is Q/a for the Q of least KL(Q || a) - k E_Q[log w] + lambda E_Q[w]. It is largest at
    w = k/lambda.
    """
    draws = Draws(world, world.log_guide)
    power, rate = KERNELS[0]

    def objective(log_proposal: Tensor) -> Tensor:
        log_ratio = log_proposal - world.log_prior
        return log_proposal.exp() @ (log_ratio - power * draws.whole + rate * draws.whole.exp())

    kernel = (world.log_prior + power * draws.whole - rate * draws.whole.exp()).log_softmax(0)
    same = Draws(world, world.log_prior)  # q = a
    vespo_less, sapo_less = f"VESPO less weights truncated at {CAP:g}", "SAPO less PPO's clip"
    least = "VESPO, KL(Q of the least objective || a w^k exp(-lambda w)/Z), nats"
    on_policy = f"VESPO, SAPO and clip, q = a, {ANGLE}"
    return [
        exact(least, kl(minimum(objective, world), kernel), limit=1e-5),
        exact(on_policy, *(same.off(weight(same)) for weight in (vespo, soft, clip))),
        *compared(vespo_less, vespo, truncated, above=[ANGLE], below=[NOISE]),
        *compared("SAPO less ratios without a clip", soft, free, below=[NOISE]),
        *compared(sapo_less, soft, clip, below=[ANGLE], either=[NOISE]),
    ]


def trust_regions(world: World) -> list[Finding]:
    """GMPO's mean of clipped ratios (arXiv 2507.20673), DPPO's limit (2602.04879), PPO's clip.

    DPPO limits q_t - a_t, whatever the ratio. GMPO clips log ratios, and is compared with PPO's
    clip at the same log ratios too.
    """
    draws, same = Draws(world, world.log_guide), Draws(world, world.log_prior)

    def spread(weight: Tensor) -> float:
        left = weight[draws.is_token & (weight > 0)]
        return (left.max() / left.min()).log().item()

    at_equal = f"GMPO less PPO's clip, both at log ratios of {WIDTH:g}"
    at_clip = f"GMPO at log ratios of {WIDTH:g} less PPO's clip at {CLIP[0]:g}"
    dppo = f"DPPO less PPO's clip, both at {CLIP[0]:g}"
    of_gmpo = (
        "GMPO, log of the largest over the least weight (PPO's clip at the same log ratios: "
        f"{spread(wide(draws)):.2g})"
    )
    of_all = f"all {len(SURROGATES) - 1} surrogates but `clip-cov`, q = a, {ANGLE}"
    return [
        exact(
            of_all,
            *(same.off(same.weights(name, CLIP)) for name in SURROGATES if name != "clip-cov"),
        ),
        within(of_gmpo, spread(geometric(draws)), below=spread(wide(draws))),
        *compared(at_equal, geometric, wide, below=[NOISE]),
        *compared(at_clip, geometric, clip, below=[NOISE]),
        *compared("PPO's clip less all tokens", clip, zero, below=[PROBABILITY]),
        *compared(dppo, limited, clip, above=[NOISE], below=[SHARE, ANGLE]),
    ]

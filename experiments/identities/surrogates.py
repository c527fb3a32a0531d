"""Surrogates of PPO, GRPO and their relatives as weights of tokens, on draws of another policy."""

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.importance_weights import CAP, Draws
from experiments.identities.residuals import minimum
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference.objectives.parts.surrogates import SURROGATES, Limits

GAMMA = {True: (2.0, 3.0), False: (3.0, 2.0)}
"""VESPO's power k and rate lambda for advantages above 0, and below."""
CLIP: Limits = (0.2, 0.2)
"""PPO's limits of the ratio of a token."""
SUBJECT = "mean gradient, sine of the angle to that of the ELBO"


def vespo(draws: Draws) -> Tensor:
    """VESPO's weights w^k exp(lambda (1 - w)), `[S]`."""

    def kernel(power: float, rate: float) -> Tensor:
        return (power * draws.whole + rate * (1 - draws.whole.exp())).exp()

    return torch.where(draws.is_good, kernel(*GAMMA[True]), kernel(*GAMMA[False]))


def soft_gates(world: World) -> list[Finding]:
    """SAPO's gate (arXiv 2511.20347), VESPO's kernel (arXiv 2602.10693), and PPO's clip.

    The kernel is Q/a for the Q of least KL(Q || a) - k E_Q[log w] + lambda E_Q[w]. It is largest at
    w = k/lambda.
    """
    draws = Draws(world, world.log_guide)
    power, rate = GAMMA[True]

    def objective(log_proposal: Tensor) -> Tensor:
        log_ratio = log_proposal - world.log_prior
        return log_proposal.exp() @ (log_ratio - power * draws.whole + rate * draws.whole.exp())

    kernel = (world.log_prior + power * draws.whole - rate * draws.whole.exp()).log_softmax(0)
    same = Draws(world, world.log_prior)  # q = a
    capped, clip = draws.whole.exp().clamp(max=CAP), draws.weights("token", CLIP)
    return [
        exact(
            "VESPO, KL(Q of the least objective || a w^k exp(-lambda w)/Z), nats",
            kl(minimum(objective, world), kernel),
            limit=1e-5,
        ),
        exact(
            f"VESPO, SAPO and clip, q = a, {SUBJECT}",
            *(
                same.off(each)
                for each in (vespo(same), same.weights("soft", None), same.weights("token", CLIP))
            ),
        ),
        within(
            f"VESPO, noise over that of plain weights (truncated: {draws.noise(capped):.2g})",
            draws.noise(vespo(draws)),
            below=1.0,
        ),
        within(
            f"VESPO, {SUBJECT} (truncated at {CAP:g}: {draws.off(capped):.2g})",
            draws.off(vespo(draws)),
            above=draws.off(capped),
        ),
        within(
            f"SAPO, {SUBJECT} (PPO's clip: {draws.off(clip):.2g})",
            draws.off(draws.weights("soft", None)),
            below=draws.off(clip),
        ),
    ]


def trust_regions(world: World) -> list[Finding]:
    """GMPO's mean of clipped ratios (arXiv 2507.20673), DPPO's limit (2602.04879), PPO's clip.

    DPPO limits q_t - a_t, here to 0.1, whatever the ratio. GMPO clips log ratios at 0.4, as its
    authors do.
    """
    draws, same = Draws(world, world.log_guide), Draws(world, world.log_prior)
    clip = draws.weights("token", CLIP)
    mean, limit = draws.weights("geometric", (0.4, 0.4)), draws.weights("divergence", (0.1, 0.1))
    ratio, prob = draws.tokens.exp(), draws.log_draw.exp()
    is_token = torch.tensor(draws.places)[:, None] < world.length
    share = world.log_prior.exp() * is_token

    def spread(weight: Tensor) -> float:
        left = weight[is_token & (weight > 0)]
        return (left.max() / left.min()).log().item()

    def dropped(weight: Tensor, value: Tensor) -> float:
        lost = share * (weight == 0)
        return ((lost * value).sum() / lost.sum()).item()

    change = ((ratio - 1) * prob).abs()
    return [
        exact(
            f"all {len(SURROGATES)} surrogates, q = a, {SUBJECT}",
            *(same.off(same.weights(name, CLIP)) for name in SURROGATES),
        ),
        within(
            f"GMPO, log of the largest over the least weight (PPO's clip: {spread(clip):.2g})",
            spread(mean),
            below=spread(clip),
        ),
        within(
            f"GMPO, noise over that of plain weights (PPO's clip: {draws.noise(clip):.2g})",
            draws.noise(mean),
            above=draws.noise(clip),
        ),
        within(
            f"DPPO, mean probability of the dropped tokens (PPO's clip: {dropped(clip, prob):.2g})",
            dropped(limit, prob),
            above=dropped(clip, prob),
        ),
        within(
            "DPPO, mean change of probability of the dropped tokens (PPO's clip: "
            f"{dropped(clip, change):.2g})",
            dropped(limit, change),
            above=dropped(clip, change),
        ),
        within(
            f"DPPO, {SUBJECT} (PPO's clip: {draws.off(clip):.2g})",
            draws.off(limit),
            below=draws.off(clip),
        ),
        within(
            f"DPPO, noise over that of plain weights (PPO's clip: {draws.noise(clip):.2g})",
            draws.noise(limit),
            above=draws.noise(clip),
        ),
    ]

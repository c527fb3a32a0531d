"""REINFORCE on draws of a fixed policy, here the prior: where the ascent of its logits ends."""

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.identities.findings import exact, over_cases, paired
from experiments.identities.world import World, cases
from experiments.shared.claims import Finding
from inference.roots import root

THRESHOLD = 0.5
"""Reward from which a response is a success, of reward 1; all others have the reward -1."""

ASCENTS = 20
"""Number of cases with a long ascent."""


def ascended(
    world: World,
    coefficient: Callable[[Tensor], Tensor],
    *,
    steps: int,
    size: float,
    start: Tensor | None = None,
) -> Tensor:
    """log q after steps along E_p0[c grad log q] by the logits, from the prior or `start`.

    The result has the shape of the coefficients, `[S]` or `[C, S]` for many ascents at once.
    """
    logits, prob = world.log_prior if start is None else start, world.log_prior.exp()
    for _ in range(steps):
        log_guide = logits.log_softmax(-1)
        gain = prob * coefficient(log_guide)
        logits = logits + size * (gain - gain.sum(-1, keepdim=True) * log_guide.exp())
    return logits.log_softmax(-1)


def topr_check(world: World) -> list[Finding]:
    """No ratio for successes, a truncated ratio for failures (TOPR, arXiv 2503.14286)."""
    success = torch.stack([case.reward for case in cases()]) >= THRESHOLD  # [C, S]
    sign = torch.where(success, 1.0, -1.0).double()
    target = world.log_prior.masked_fill(~success, -torch.inf).softmax(-1)

    def ratio(log_guide: Tensor) -> Tensor:
        return (log_guide - world.log_prior).exp().clamp(max=1.0)

    topr, good, plain = (
        ascended(world, coefficient, steps=2000, size=2.0).exp()
        for coefficient in (
            lambda log_guide: torch.where(success, 1.0, -ratio(log_guide)),
            lambda _: success.double(),
            lambda _: sign,
        )
    )
    of_topr, of_plain = (0.5 * (q - target).abs().sum(-1) for q in (topr, plain))
    failures = [(q * ~success).sum(-1) for q in (topr, good)]
    subject = "2,000 steps, total variation from the prior given success"
    return [
        over_cases(f"TOPR, {subject}", of_topr, below=0.02),
        paired("2,000 steps, failures, TOPR less successes alone", *failures, below=0.0),
        paired(f"{subject}, no ratio less TOPR", of_plain, of_topr, above=0.1),
    ]


def asym_re(world: World) -> list[Finding]:
    """Rewards less a baseline V, no ratio, (p0 (r - V) - tau)+ / (E r - V) (arXiv 2506.20520).

    The limit for V below the mean reward was derived again: the logits of all responses in its
    support grow by tau in a unit of time, those of the others by less.
    """
    prior, rewards = world.log_prior.exp(), torch.stack([case.reward for case in cases(ASCENTS)])
    mean = (rewards @ prior)[:, None]
    errors, gains = [], []
    for distance in (0.6, 0.1):
        gain = prior * (rewards - mean + distance)
        limit = torch.stack([_limit(each, distance) for each in gain])
        errors.append(
            0.5 * (_ascended(world, rewards - mean + distance).exp() - limit).abs().sum(-1)
        )
        gains.append((limit * rewards).sum(-1) - mean[:, 0])
    above = _ascended(world, rewards - mean - 0.1)
    entropy = -(above.exp() * above).sum(-1)
    return [
        exact("V 0.6 and 0.1 below E[r], total variation from the limit", *errors, limit=1e-3),
        over_cases("V 0.6 and 0.1 below E[r], gain of E[r] at the limit", *gains, above=0.0),
        over_cases("V 0.1 above E[r], entropy at the end, nats", entropy, below=0.01),
    ]


def _limit(gain: Tensor, distance: float) -> Tensor:
    """(gain - tau)+ / distance, `[S]`, for the tau of sum 1."""

    def at(level: float) -> Tensor:
        return (gain - level).clamp(min=0) / distance

    return at(root(lambda tau: at(tau).sum().item() - 1, -1.0, gain.max().item()))


def _ascended(world: World, coefficient: Tensor) -> Tensor:
    """log q after a long ascent. With larger steps a steep ascent would swing about its end."""
    return ascended(world, lambda _: coefficient, steps=20_000, size=5.0)

"""REINFORCE on draws of a fixed policy, here the prior: where the ascent of its logits ends."""

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.world import World
from experiments.shared.claims import Finding, within
from inference.roots import root
from inference.targets.fixed_points import TARGETS

THRESHOLD = 0.5
"""Reward from which a response is a success, of reward 1; all others have the reward -1."""


def ascended(
    world: World,
    coefficient: Callable[[Tensor], Tensor],
    *,
    steps: int,
    size: float,
    start: Tensor | None = None,
) -> Tensor:
    """log q after steps along E_p0[c grad log q] by the logits, from the prior or `start`."""
    logits, prob = world.log_prior if start is None else start, world.log_prior.exp()
    for _ in range(steps):
        log_guide = logits.log_softmax(0)
        gain = prob * coefficient(log_guide)
        logits = logits + size * (gain - gain.sum() * log_guide.exp())
    return logits.log_softmax(0)


def tapered(world: World) -> list[Finding]:
    """No ratio for successes, a truncated ratio for failures (TOPR, arXiv 2503.14286)."""
    success = world.reward >= THRESHOLD
    sign = torch.where(success, 1.0, -1.0).double()
    target = TARGETS["filtering"](world.problem, threshold=THRESHOLD)[:, 0].exp()

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
    distances = [0.5 * (q - target).abs().sum().item() for q in (topr, plain)]
    failures = [q[~success].sum().item() for q in (topr, good)]
    subject = "total variation from the prior given success"
    return [
        within(f"TOPR, 2,000 steps, {subject}", distances[0], below=0.02),
        within(
            f"TOPR, 2,000 steps, failures (successes alone: {failures[1]:.2g})",
            failures[0],
            below=failures[1],
        ),
        within(f"no ratio, 2,000 steps, {subject}", distances[1], above=0.5),
    ]


def asymmetric(world: World) -> list[Finding]:
    """Rewards less a baseline V, no ratio, (p0 (r - V) - tau)+ / (E r - V) (arXiv 2506.20520).

    The limit for V below the mean reward was derived again: the logits of all responses in its
    support grow by tau in a unit of time, those of the others by less.
    """
    prior, mean = world.log_prior.exp(), world.mean_reward(world.log_prior)
    errors, rewards = [], []
    for distance in (0.6, 0.1):
        gain = prior * (world.reward - mean + distance)

        def at(level: float, gain: Tensor = gain, distance: float = distance) -> Tensor:
            return (gain - level).clamp(min=0) / distance

        level = root(lambda tau: at(tau).sum().item() - 1, -1.0, gain.max().item())
        end = _limit_of(world, mean - distance)
        errors.append(0.5 * (end.exp() - at(level)).abs().sum())
        rewards.append((at(level) @ world.reward).item())
    above = _limit_of(world, mean + 0.1)
    entropy = -(above.exp() * above).sum().item()
    return [
        exact("V 0.6 and 0.1 below E[r], total variation from the limit", *errors, limit=1e-3),
        within(
            f"V 0.6 and 0.1 below E[r], E[r] at the limit (of the draws: {mean:.2g})",
            *rewards,
            above=mean,
        ),
        within("V 0.1 above E[r], entropy at the end, nats", entropy, below=0.01),
    ]


def _limit_of(world: World, baseline: float) -> Tensor:
    """log q after a long ascent with the coefficient r - V."""
    return ascended(world, lambda _: world.reward - baseline, steps=40_000, size=20.0)

"""Decoding: what is exact for whole responses, and what its step by step form loses."""

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.identities.findings import agrees, exact
from experiments.identities.prefixes import next_token, soft_value, token_by_token, twist_of
from experiments.identities.targets import THRESHOLD
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from inference import Estimate, random_state, sequential_monte_carlo
from model import AlignmentModel, TokenReward

RUNS = 200
"""Number of runs of a sampler behind a mean."""


def realignment(world: World) -> list[Finding]:
    """p0^(1 - lam) p*^lam is the posterior at beta/lam (DeRa, arXiv 2402.02992)."""
    share = 0.5
    log_exact = (world.log_prior + share * world.reward / world.model.beta).log_softmax(0)
    parts = [(1 - share, world.log_prior), (share, world.log_posterior)]
    return product_of_experts(world, parts, log_exact, above=1e-4, below=0.05)


def emulated(world: World) -> list[Finding]:
    """A large model times the ratio of a small model tuned and not (arXiv 2310.12962, 2401.08565).

    The small model is prior and posterior, the large model is the guide.
    """
    log_exact = (world.log_guide + world.reward / world.model.beta).log_softmax(0)
    parts = [(1.0, world.log_guide), (1.0, world.log_posterior), (-1.0, world.log_prior)]
    return product_of_experts(world, parts, log_exact, above=1e-3, below=0.1)


def objectives(world: World) -> list[Finding]:
    """p1^w p2^(1 - w) of two posteriors, the posterior of the mixed reward (arXiv 2406.18853)."""
    share, second = 0.5, World.of(reward_seed=2)
    reward = share * world.reward + (1 - share) * second.reward
    log_exact = (world.log_prior + reward / world.model.beta).log_softmax(0)
    parts = [(share, world.log_posterior), (1 - share, second.log_posterior)]
    return product_of_experts(world, parts, log_exact, above=1e-3, below=0.1)


def product_of_experts(
    world: World, parts: list[tuple[float, Tensor]], log_exact: Tensor, above: float, below: float
) -> list[Finding]:
    """Product of powers of distributions, of whole responses and of each next token alone."""
    log_whole = torch.stack([power * part for power, part in parts]).sum(0).log_softmax(0)

    def of_tokens(t: int) -> Tensor:
        return torch.stack([power * next_token(world, part, t) for power, part in parts]).sum(0)

    log_tokens = token_by_token(world, of_tokens)
    nats = kl(log_tokens, log_exact)
    subject = "token by token, KL(q || posterior), nats"
    return [
        exact("whole responses, log q - log posterior", log_whole - log_exact),
        exact("token by token, sum of q - 1", log_tokens.logsumexp(0)),
        within(subject, nats, above=above, below=below),
    ]


def controlled(world: World) -> list[Finding]:
    """Next tokens in proportion to p0 exp(value), by three values of the tokens so far.

    log E_p0[exp(r/beta)] gives the posterior (Q#, arXiv 2502.20548), log P(success) the prior given
    success (FUDGE, arXiv 2104.05218); E_p0[r]/beta gives another distribution (controlled decoding,
    arXiv 2310.17022).
    """
    success = world.log_prior.masked_fill(world.reward < THRESHOLD, -torch.inf)
    log_mean = world.log_prior + world.reward.log()

    def guided(value: Callable[[int], Tensor]) -> Tensor:
        return token_by_token(world, lambda t: next_token(world, world.log_prior, t) + value(t + 1))

    soft, given, by_mean = (
        guided(value)
        for value in (
            lambda t: soft_value(world, world.log_joint, t),
            lambda t: soft_value(world, success, t),
            lambda t: soft_value(world, log_mean, t).exp() / world.model.beta,
        )
    )
    nats, of_prior = (world.gap(log) for log in (by_mean, world.log_prior))
    is_good = success.isfinite()
    error = (given - success.log_softmax(0))[is_good]
    return [
        exact("log E[exp(r/beta)], log q - log p*", soft - world.log_posterior),
        exact("log P(success), log q - log p0 given success", error),
        within("E[r]/beta, KL(q || p*), nats", nats, above=0.01),
        within("KL(p0 || p*), nats (above that of E[r]/beta)", of_prior, above=nats),
    ]


def particles(world: World) -> list[Finding]:
    """Particles weighed by a process reward after every token (arXiv 2502.01618).

    The process reward is exact: psi_t = log E_p0[exp(r/beta)] given t tokens. Its weights at every
    token have the target p0 exp(psi_1 + ... + psi_T), in which early tokens count again and again.
    Weights of psi_t - psi_(t - 1) have the posterior: psi is a twist.
    """
    num_tokens = world.truth.support.shape[-1]
    psi = [soft_value(world, world.log_joint, t) for t in range(1, num_tokens + 1)]
    total = torch.stack(psi).cumsum(0)  # [T, S]
    log_filter = (world.log_prior + total[-1]).log_softmax(0)
    every = AlignmentModel(world.model.prior, _rewards(world, total[-1]), 1.0)
    runs = {
        "weights of the whole psi": (every, lambda t: total[t - 1], (world.log_prior + total[-1])),
        "weights of its change": (world.model, lambda t: psi[t - 1], world.log_joint),
    }
    findings = []
    for name, (model, value, log_joint) in runs.items():
        with random_state.isolated(0):
            log_z = _log_z(world, model, value)
        ratio = (log_z - log_joint.logsumexp(0)).exp()
        findings.append(agrees(f"{name}, mean of Z_hat/Z", Estimate.of_mean(ratio), 1.0))
    nats = world.gap(log_filter)
    return [*findings, within("weights of the whole psi, KL(target || p*), nats", nats, above=0.01)]


def _rewards(world: World, values: Tensor) -> TokenReward:
    """The reward of a value of each response, `[S]`."""
    twist, num_tokens = twist_of(world, lambda _: values), world.truth.support.shape[-1]
    return TokenReward(
        lambda response, _: twist(world.prompts, response, num_tokens), world.model.prior
    )


def _log_z(world: World, model: AlignmentModel, value: Callable[[int], Tensor]) -> Tensor:
    """log Z_hat of 16 particles that are resampled after every token, `[RUNS, 1]`, nats."""
    twist, copies = twist_of(world, value), world.prompts[[0] * RUNS]
    posterior = sequential_monte_carlo(
        model, copies, num_samples=16, twist=twist, ess_threshold=2.0
    )
    assert posterior.log_z is not None
    return posterior.log_z[:, None]

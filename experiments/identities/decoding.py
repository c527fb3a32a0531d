"""Decoding: what is exact for whole responses, and what its step by step form loses."""

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, agrees, exact, over_cases, paired
from experiments.identities.prefixes import next_token, soft_value, token_by_token, twist_of
from experiments.identities.sampling import log_z_of_runs
from experiments.identities.targets import THRESHOLD
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, within
from inference import Estimate, random_state
from model import AlignmentModel, TokenReward

Parts = list[tuple[float, Tensor]]
"""Powers, and logs of distributions `[S]`."""


def dera(_: World) -> list[Finding]:
    """p0^(1 - lam) p*^lam is the posterior at beta/lam (DeRa, arXiv 2402.02992)."""
    share = 0.5

    def parts(case: World) -> tuple[Parts, Tensor]:
        log_exact = case.posterior_at(case.model.beta / share)
        return [(1 - share, case.log_prior), (share, case.log_posterior)], log_exact

    return product_of_experts(parts, below=0.05)


def emulated(_: World) -> list[Finding]:
    """A large model times the ratio of a small model tuned and not (arXiv 2310.12962, 2401.08565).

    The small model is prior and posterior, the large model is the guide.
    """

    def parts(case: World) -> tuple[Parts, Tensor]:
        log_exact = (case.log_guide + case.reward / case.model.beta).log_softmax(0)
        small = [(1.0, case.log_posterior), (-1.0, case.log_prior)]
        return [(1.0, case.log_guide), *small], log_exact

    return product_of_experts(parts, below=0.1)


def multi_objective(world: World) -> list[Finding]:
    """p1^w p2^(1 - w) of two posteriors, the posterior of the mixed reward (arXiv 2406.18853)."""
    share = 0.5

    def parts(case: World) -> tuple[Parts, Tensor]:
        reward = share * case.reward + (1 - share) * world.reward
        log_exact = (case.log_prior + reward / case.model.beta).log_softmax(0)
        return [(share, case.log_posterior), (1 - share, world.log_posterior)], log_exact

    return product_of_experts(parts, below=0.1)


def product_of_experts(
    parts_of: Callable[[World], tuple[Parts, Tensor]], below: float
) -> list[Finding]:
    """Product of powers of distributions, of whole responses and of each next token alone.

    The parts of a case come with the exact posterior.
    """
    errors, sums, nats = [], [], []
    for case in cases():
        parts, log_exact = parts_of(case)
        log_whole = torch.stack([power * part for power, part in parts]).sum(0).log_softmax(0)
        log_tokens = _of_tokens(case, parts)
        errors.append(log_whole - log_exact)
        sums.append(log_tokens.logsumexp(0))
        nats.append(kl(log_tokens, log_exact))
    subject = "token by token, KL(q || posterior), nats"
    return [
        exact("whole responses, log q - log posterior", *errors),
        exact("token by token, sum of q - 1", *sums),
        over_cases(subject, nats, above=DISTINCT, below=below),
    ]


def _of_tokens(world: World, parts: Parts) -> Tensor:
    """log q of responses whose tokens are each drawn from the product of next tokens, `[S]`."""

    def score(t: int) -> Tensor:
        return torch.stack([power * next_token(world, part, t) for power, part in parts]).sum(0)

    return token_by_token(world, score)


def controlled(world: World) -> list[Finding]:
    """Next tokens in proportion to p0 exp(value), by three values of the tokens so far.

    log E_p0[exp(r/beta)] gives the posterior (Q#, arXiv 2502.20548), log P(success) the prior given
    success (FUDGE, arXiv 2104.05218); E_p0[r]/beta gives another distribution (controlled decoding,
    arXiv 2310.17022).
    """
    errors, of_success, nats = [], [], []
    for case in cases():
        success = case.log_prior.masked_fill(case.reward < THRESHOLD, -torch.inf)
        soft, given = (_guided(case, log) for log in (case.log_joint, success))
        by_mean = _guided(
            case, case.log_prior + case.reward.log(), lambda soft: soft.exp() / world.model.beta
        )
        errors.append(soft - case.log_posterior)
        of_success.append((given - success.log_softmax(0))[success.isfinite()])
        nats.append([case.gap(log) for log in (by_mean, case.log_prior)])
    of_mean, of_prior = torch.tensor(nats, dtype=torch.float64).T
    return [
        exact("log E[exp(r/beta)], log q - log p*", *errors),
        exact("log P(success), log q - log p0 given success", *of_success),
        over_cases("E[r]/beta, KL(q || p*), nats", of_mean, above=DISTINCT),
        paired("KL(p0 || p*) less that of E[r]/beta, nats", of_prior, of_mean, above=0.0),
    ]


def _guided(
    world: World, log_joint: Tensor, value: Callable[[Tensor], Tensor] = torch.clone
) -> Tensor:
    """log q of next tokens in proportion to p0 exp(value of the soft value of tokens so far)."""

    def score(t: int) -> Tensor:
        return next_token(world, world.log_prior, t) + value(soft_value(world, log_joint, t + 1))

    return token_by_token(world, score)


def particle_filter(world: World) -> list[Finding]:
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
        with random_state.isolated(0):  # resampled after every token
            log_z = log_z_of_runs(world, model, twist_of(world, value), ess_threshold=2.0)
        ratio = (log_z - log_joint.logsumexp(0)).exp()
        findings.append(agrees(f"{name}, mean of Z_hat/Z", Estimate.of_mean(ratio), 1.0))
    nats = world.gap(log_filter)
    return [
        *findings,
        within("weights of the whole psi, KL(target || p*), nats", nats, above=DISTINCT),
    ]


def _rewards(world: World, values: Tensor) -> TokenReward:
    """The reward of a value of each response, `[S]`."""
    twist, num_tokens = twist_of(world, lambda _: values), world.truth.support.shape[-1]
    return TokenReward(
        lambda response, _: twist(world.prompts, response, num_tokens), world.model.prior
    )

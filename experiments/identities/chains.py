"""Chains: transition matrices of Metropolis-Hastings over all responses."""

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, agrees, exact
from experiments.identities.prefixes import masses
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from guides import Tempered
from inference import Enumeration, metropolis_hastings, random_state
from inference.targets.fixed_points import Problem
from model import AlignmentModel, Prompts, grammar_prior

ALPHA = 4.0
"""Power of the prior. For much larger ones few responses have all of the mass, and lengths matter
little."""
CHAINS, STEPS = 256, 40
"""Numbers of chains of the sampler, and of steps of each chain."""


def power_sampling(_: World) -> list[Finding]:
    """p0^alpha by redrawing the end of a response (Karan and Du 2025, arXiv 2510.14901).

    p0^alpha is the posterior of the reward log p0 at beta 1/(alpha - 1). The proposal goes on from
    a token, uniform over the response, at temperature 1/alpha. A move is accepted with probability
    min(1, w(x') |x| / (w(x) |x'|)), w = p0^alpha/q. The authors' code has no lengths |x|, which
    changes nothing where all responses have one length. The prior is the network of the grammar.
    """
    prior = grammar_prior(max_new_tokens=3).double()
    prompts = prior.encode(["the film was"])

    def log_prior(prompts: Prompts, response: Tensor) -> Tensor:
        return prior(prompts).log_prob(response)

    model = AlignmentModel(prior, log_prior, 1 / (ALPHA - 1))
    guide, truth = Tempered(prior, temperature=1 / ALPHA), Enumeration(model, prompts)
    response = truth.support[:, 0]
    log_p0, log_target, log_q = (
        log[:, 0].detach() for log in (truth.log_prior, truth.log_posterior, truth.log_guide(guide))
    )
    length = Problem.of(model, prompts).tokens("power")[1][:, 0].double()
    moves, without = [], []
    for log in (log_q, log_p0):
        proposed = _proposed(response, log, length)
        moves.append(proposed * _accepted(log_target - log - length.log()))
        without.append(proposed * _accepted(log_target - log))
    nats = [kl(_stationary(each), log_target) for each in moves]
    rates = [(log_target.exp() @ each.sum(1)).item() for each in moves]
    with random_state.isolated(0):
        posterior = metropolis_hastings(
            model, prompts, guide=guide, num_chains=CHAINS, num_samples=STEPS * CHAINS
        )
    estimate = posterior.estimate(log_prior(prompts, posterior.response))
    target = f"p0^{ALPHA:g}/Z"
    mean = f"sampler, {CHAINS} chains of {STEPS} steps, mean of log p0, nats"
    moved = f"share of moves accepted, tempered proposals (prior: {rates[1]:.2g})"
    one_by_one = f"tokens one by one at temperature 1/{ALPHA:g}, KL(q || {target}), nats"
    of_power = f"posterior of log p0 at beta 1/{ALPHA - 1:g} - {target}"
    return [
        exact(of_power, log_target - (ALPHA * log_p0).log_softmax(0)),
        exact(f"KL(stationary || {target}), proposals tempered and prior, nats", *nats, limit=1e-8),
        agrees(mean, estimate, (log_target.exp() @ log_p0).item()),
        within(moved, rates[0], above=rates[1]),
        within(one_by_one, kl(log_q, log_target), above=DISTINCT),
        *_without_lengths(_stationary(without[0]), log_target, length, target),
    ]


def _without_lengths(
    log_stationary: Tensor, log_target: Tensor, length: Tensor, target: str
) -> list[Finding]:
    """Findings on the chain that accepts by the weights alone."""
    by_length = (log_target + length.log()).log_softmax(0)
    nats = [kl(log_stationary, log) for log in (by_length, log_target)]
    return [
        exact(f"no lengths, KL(stationary || {target} times |x|), nats", nats[0], limit=1e-8),
        within(f"no lengths, KL(stationary || {target}), nats", nats[1], above=DISTINCT),
    ]


def _proposed(response: Tensor, log_q: Tensor, length: Tensor) -> Tensor:
    """Probability that the end of x, from a uniform token on, is redrawn as x', `[S, S]`."""
    moves = torch.zeros(len(response), len(response), dtype=log_q.dtype)
    for start in range(response.shape[1]):
        prefix = response[:, :start]
        same = (prefix[:, None] == prefix).all(-1)
        given = (log_q - masses(log_q, response, prefix)[:, None]).exp() * same
        moves = moves + given * (start < length)[:, None] / length[:, None]
    return moves


def _accepted(log_weight: Tensor) -> Tensor:
    """min(1, w(x')/w(x)), `[S, S]`."""
    return (log_weight - log_weight[:, None]).clamp(max=0.0).exp()


def _stationary(moves: Tensor) -> Tensor:
    """log of the stationary distribution of a chain that else stays, `[S]`.

    By Grassmann, Taksar and Heyman 1985: without subtractions, so that the error is relative to the
    smallest probability too.
    """
    moves = moves.clone()
    for last in range(len(moves) - 1, 0, -1):  # the chain watched while it is below `last`
        moves[:last, last] /= moves[last, :last].sum()
        moves[:last, :last] += moves[:last, last, None] * moves[last, :last]
    stationary = torch.ones_like(moves[0])
    for state in range(1, len(moves)):
        stationary[state] = stationary[:state] @ moves[:state, state]
    return stationary.log().log_softmax(0)

"""Tilts of the prior: the posterior in other words, and distributions that are not."""

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.targets import THRESHOLD, of
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding
from inference import Enumeration, match_moments
from model import AlignmentModel, Prompts
from model.optimality import OptimalityModel

SHARE = 0.5
"""Mean of a binary feature, as a constraint."""


def control(world: World) -> list[Finding]:
    """p(x given O = 1) = p*, for p(O = 1 given x) = exp((r - 1)/beta) (arXiv 1805.00909)."""
    given = Enumeration(OptimalityModel(world.model), world.prompts)
    error = (given.log_posterior[:, 0] - world.log_posterior).abs().max().item()
    shift = world.log_z - given.log_z.item() - 1 / world.model.beta
    return [
        exact("log p(x given O = 1) - log p*", error),
        exact("log Z - log p(O = 1) - 1/beta, nats", shift),
    ]


def realignment(world: World) -> list[Finding]:
    """p0^(1 - lam) p*^lam is the posterior at beta/lam (DeRa, arXiv 2402.02992)."""
    share = 0.5
    log_exact = (world.log_prior + share * world.reward / world.model.beta).log_softmax(0)
    log_mixed = ((1 - share) * world.log_prior + share * world.log_posterior).log_softmax(0)
    response = world.truth.support[:, 0]
    log_tokens = torch.zeros_like(log_exact)
    parts = world.log_prior, world.log_posterior
    for t in range(response.shape[1]):
        log_next = [masses(part, response, response[:, : t + 1]) for part in parts]
        log_here = [masses(part, response, response[:, :t]) for part in parts]
        step = (1 - share) * (log_next[0] - log_here[0]) + share * (log_next[1] - log_here[1])
        log_tokens += step - normaliser(step, response, t)
    return [
        exact("whole responses, log q - log posterior", (log_mixed - log_exact).abs().max().item()),
        exact("token by token, sum of q - 1", log_tokens.logsumexp(0).item()),
        Finding.of_limits(
            "token by token, KL(q || posterior), nats",
            [kl(log_tokens, log_exact)],
            above=1e-4,
            below=0.05,
        ),
    ]


def masses(log_prob: Tensor, response: Tensor, prefix: Tensor) -> Tensor:
    """log of the probability of all responses `[S, T]` that begin with each of S prefixes, `[S]`.

    The prefixes are `[S, t]`.
    """
    same = (prefix[:, None] == response[:, : prefix.shape[1]]).all(-1)
    return log_prob.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)


def normaliser(step: Tensor, response: Tensor, t: int) -> Tensor:
    """log of the sum of exp(step) over the tokens that follow the prefix of t tokens, `[S]`."""
    prefix, longer = response[:, :t], response[:, : t + 1]
    same = (prefix[:, None] == prefix).all(-1)
    siblings = (longer[:, None] == longer).all(-1).sum(0).double()  # responses to each token
    return (step - siblings.log()).expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)


def filtering(world: World) -> list[Finding]:
    """Maximum likelihood on accepted draws, round by round (RAFT, arXiv 2304.06767)."""
    is_good = world.reward >= THRESHOLD
    log_given = world.log_prior.masked_fill(~is_good, -torch.inf).log_softmax(0)
    log_target = of(world, "filtering", threshold=THRESHOLD)
    again = log_target.masked_fill(~is_good, -torch.inf).log_softmax(0)
    good = log_target[is_good]
    errors = [(log - good).abs().max().item() for log in (log_given[is_good], again[is_good])]
    distance = kl(good, world.log_posterior[is_good])
    return [
        exact("one round and two rounds, log q - log p0 given accepted", *errors),
        Finding.of_limits("KL(q || p*), nats", [distance], above=0.01),
    ]


def power(_: World) -> list[Finding]:
    """p0^alpha against temperature 1/alpha, on two tokens (arXiv 2510.14901)."""
    log_prior = torch.tensor([0.40, 0.25, 0.25], dtype=torch.float64).log()  # ab, ba, bb
    first_is_a = (2 * log_prior).softmax(0)[0].item()
    by_temperature = 0.40**2 / (0.40**2 + 0.50**2)
    as_reward = (log_prior + log_prior / 1.0).softmax(0)[0].item()
    text = f"P(first token a), by power and by temperature {by_temperature:.4f}"
    return [
        exact("p0^2 - posterior of r = log p0 at beta 1", first_is_a - as_reward),
        Finding.of_limits(text, [first_is_a], above=by_temperature),
    ]


def moments(world: World) -> list[Finding]:
    """The distribution nearest to p0 with a given mean of a feature (GDC, arXiv 2012.11635)."""
    is_good = world.reward >= THRESHOLD
    reward = world.model.reward

    def feature(prompts: Prompts, response: Tensor) -> Tensor:
        return (reward(prompts, response) >= THRESHOLD).double()

    base = AlignmentModel(world.model.prior, {}, 1.0)
    match = match_moments(base, world.prompts, {"good": feature}, {"good": SHARE})
    share = world.log_prior[is_good].exp().sum().item()
    closed = math.log(SHARE / (1 - SHARE) * (1 - share) / share)

    def tilted(slope: float) -> Tensor:
        return (world.log_prior + slope * world.reward).log_softmax(0)

    slope = brentq(lambda x: tilted(x)[is_good].exp().sum().item() - SHARE, 0.0, 50.0)
    nats = kl(tilted(slope), world.log_prior)
    subject = f"share {SHARE:g} from {share:.2f}, KL(p* || p0), nats"
    return [
        exact("lambda - its closed form", match.multipliers["good"] - closed, limit=1e-6),
        exact(f"mean of the feature - {SHARE:g}", match.moments["good"].value - SHARE, limit=1e-6),
        Finding.of_limits(
            f"{subject} (below a posterior of r with that share)", [match.kl.value], below=nats
        ),
    ]

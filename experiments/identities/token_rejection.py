"""Hard constraints on tokens: rejection of single tokens, its weights and its cost."""

from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.identities.findings import agrees, exact
from experiments.identities.prefixes import next_token
from experiments.identities.world import PROMPT, World
from experiments.shared.claims import Finding, within
from inference import Estimate, random_state, sequential_monte_carlo
from inference.importance_weights import effective_sample_size
from inference.samplers.particles import Particles, Stream
from inference.samplers.token_rejection import TokenRejection
from model import AlignmentModel, Prompts
from model.prior.grammar import untrained_prior

WORDS, TOKENS = 200, 6
"""Sizes of the large world."""
PARTICLES = 4000
"""Number of responses in the large world."""


def awrs(world: World) -> list[Finding]:
    """Tokens without replacement until some are allowed (AWRS, arXiv 2504.05410).

    The mean of W 1[token] is a sum over all orders of the tokens. In a larger world the draws are
    those of masked decoding, whose exact weights follow from all next-token probabilities.
    """
    errors, variance = [], {}
    for extra, tests in ((1, 1), (1, 2), (1, 5), (2, 5), (3, 4)):
        runs = [_of_all_orders(world, number, extra, tests) for number in range(1, 2**5)]
        errors += [error for error, _ in runs]
        variance[extra, tests] = sum(spread for _, spread in runs)
    one, more = (variance[extra, 5] / variance[1, 1] for extra in (1, 2))
    findings = [
        exact("sum over all orders of W 1[token] - q(token) 1[allowed]", *errors),
        within("variance of W, 1 and 2 tests more, over one test", one, more, below=1),
    ]
    for limit in (60, 190):
        cost, name = _cost(limit, 4), f"{WORDS} words, {limit} allowed"
        masking, whole = f"masking: {cost.masking:.0f}", f"rejection of responses: {cost.whole:.0f}"
        subject = f"{name}, 4 tests more"
        of_tests = f"{subject}, tests for an effective response ({masking})"
        findings += [
            agrees(f"{subject}, W over the weight of masking, given the draws", cost.ratio, 1.0),
            within(of_tests, cost.tests, below=cost.masking),
        ]
    tokens_read = f"{subject}, tokens read for an effective response ({whole})"
    findings.append(within(tokens_read, cost.read, below=cost.whole))
    noisy = _cost(60, 1)
    ratio = noisy.read / noisy.read_by_masking
    subject = f"{WORDS} words, 60 allowed, 1 test more, tokens read for an effective response"
    return [*findings, within(f"{subject} over those of masking", ratio, above=2.0)]


class Order(Stream):
    """A language model of one next token, whose draws have a given order, `[K, V]`."""

    def __init__(self, prob: Tensor, order: Tensor) -> None:
        self.logits, self.temperature = prob.log().expand(order.shape), 1.0
        self.shape, self.by_prompts, self.own = (len(order), 1), None, slice(None)
        self.columns = iter(order.T[:, :, None])

    def sample(self) -> Tensor:
        return next(self.columns)


def _of_all_orders(world: World, number: int, extra: int, tests: int) -> tuple[float, float]:
    """Error of the mean of W 1[token], and the variance of W; the bits of `number` are allowed."""
    is_good = torch.tensor([bool(number >> token & 1) for token in range(5)])
    first = world.truth.support[:, 0, 0]
    log_prob = next_token(world, world.log_prior, 0)
    prob = torch.stack([log_prob[first == token][0] for token in range(5)]).exp()
    order = torch.tensor(list(permutations(range(5))))
    drawn = prob[order]
    weight = (drawn / drawn.flip(1).cumsum(1).flip(1)).prod(1)  # probability of the order

    def allowed(_: Prompts, response: Tensor, t: int) -> Tensor:
        return is_good[response[..., t - 1]]

    particles = Particles(world.model.prior(world.prompts), len(order))
    rejection = TokenRejection(allowed, extra_tests=extra, max_tests=tests)
    token = rejection.draw(particles, Order(prob, order), world.prompts, 1)
    w = particles.log_weight[:, 0].exp()
    mean = torch.zeros_like(prob).scatter_add(0, token[:, 0], weight * w)
    variance = (weight * w.square()).sum() - mean.sum().square()
    return (mean - prob * is_good).abs().max().item(), variance.item()


class Cost(NamedTuple):
    """Ratio of W to the weight of masking; numbers for an effective response.

    Tests of the constraint, by rejection of tokens and by masking; tokens that the prior reads, by
    both, and by rejection of whole responses.
    """

    ratio: Estimate
    tests: float
    masking: float
    read: float
    read_by_masking: float
    whole: float


def _cost(limit: int, extra: int) -> Cost:
    """Costs with the first `limit` words allowed, and some tests after the first allowed token."""
    prior = untrained_prior(WORDS, TOKENS, initializer_range=0.15, seed=0)
    prompts = prior.encode([PROMPT])

    def allowed(_: Prompts, response: Tensor, t: int) -> Tensor:
        return (response[..., :t] < limit).all(-1)

    rejection = TokenRejection(allowed, extra_tests=extra, max_tests=WORDS)
    model = AlignmentModel(prior, {}, 1.0)
    with random_state.isolated(0):
        posterior = sequential_monte_carlo(
            model, prompts, num_samples=PARTICLES, rejection=rejection, ess_threshold=0.0
        )
    response, log_weight = posterior.response, posterior.log_weight
    is_token = prior.space.is_token(response)
    log_prob = prior(prompts).next_token_logits(response).log_softmax(-1)
    mass = log_prob[..., :limit].logsumexp(-1).double()  # of the allowed tokens, [K, 1, T]
    so_far = mass.masked_fill(~is_token, 0.0).cumsum(-1)
    log_mask = so_far[..., -1]  # weight of masking
    own, of_masking = (effective_sample_size(log).item() for log in (log_weight, log_mask))
    length = is_token.sum().item()
    # of the prior's draws, those that are allowed so far read on
    read = (is_token * (so_far - mass).exp()).sum(-1).mean() / log_mask.exp().mean()
    return Cost(
        Estimate.of_mean((log_weight - log_mask).exp()),
        posterior.diagnostics["num_tests"].item() / own,
        WORDS * length / of_masking,
        length / own,
        length / of_masking,
        read.item(),
    )

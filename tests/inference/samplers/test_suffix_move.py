"""The suffix move leaves the target invariant, for any target and any proposal."""

import pytest
import torch

from inference import response_distribution
from inference.samplers.suffix_move import suffix_move
from tests.inference.samplers.three_tokens import World, assert_unbiased, code_of

CHAINS = 30_000


@pytest.fixture(scope="module")
def world(prior, prompts):
    return World(prior, prompts)


def log_weight_table(world, program):
    """log p* - log q by code of a response, up to a constant: `[2, 1000]`."""
    codes = code_of(world.truth.support).T
    log_ratio = world.truth.log_joint - world.truth.log_guide(program)
    return torch.full((2, 1000), torch.nan).double().scatter(1, codes, log_ratio.T)


def frequencies(world, response):
    """Share of each response of the support, `[S, 2]`."""
    codes, support = code_of(response), code_of(world.truth.support)
    counts = [torch.bincount(codes[:, n], minlength=1000)[support[:, n]] for n in range(2)]
    return torch.stack(counts, 1).double() / len(response)


def run_moves(world, distribution, score, response, num_moves, **kwargs):
    log_weight = score(response)
    for _ in range(num_moves):
        response, log_weight, _ = suffix_move(distribution, response, log_weight, score, **kwargs)
    assert torch.equal(log_weight, score(response))
    return response


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("proposal", ["prior", "guide"])
def test_posterior_is_invariant(world, proposal, whole):
    """Chains from exact posterior samples stay exact: lengths, first tokens, common responses."""
    program = world.program(world.log_prior) if proposal == "prior" else world.guide
    distribution = response_distribution(program, world.prompts)
    table = log_weight_table(world, program)

    def score(response):
        return table[torch.arange(2), code_of(response)]

    start = world.exact_samples(CHAINS)
    response = run_moves(world, distribution, score, start, 5, whole=whole)
    assert (response != start).any(-1).double().mean() > 0.3
    exact = world.truth.log_posterior.exp()
    common = (exact > 0.01).all(1) | (exact.max(1).values > 0.03)
    error = (exact * (1 - exact) / CHAINS).sqrt().clamp(min=1e-4)
    off = ((frequencies(world, response) - exact) / error)[common]
    assert common.sum() >= 8
    assert (off.abs() < 5).all(), off
    length = distribution.space.is_token(response).sum(-1).double()
    exact_length = (exact * distribution.space.is_token(world.truth.support).sum(-1)).sum(0)
    assert_unbiased(length, exact_length, power=0.005)


@pytest.mark.parametrize("whole", [False, True])
def test_chains_reach_the_posterior_from_anywhere(world, whole):
    """The distribution of chains from a single response converges to the posterior."""
    distribution = response_distribution(world.program(world.log_prior), world.prompts)
    table = log_weight_table(world, world.program(world.log_prior))
    likely = world.truth.support[world.truth.log_prior.argmax(0), torch.arange(2)]
    start = likely.expand(5_000, -1, -1)
    score = lambda response: table[torch.arange(2), code_of(response)]  # noqa: E731
    end = run_moves(world, distribution, score, start, 60, whole=whole)
    exact = world.truth.log_posterior.exp()
    far, near = (0.5 * (frequencies(world, x) - exact).abs().sum(0) for x in (start, end))
    assert (near < 0.06).all()
    assert (far > 0.4).all()


def test_impossible_is_left_at_once_and_never_entered(world):
    """Weight only for responses that begin with `very` (6): a chain outside accepts any move."""
    distribution = response_distribution(world.program(world.log_prior), world.prompts[[0, 0]])

    def score(response):
        return torch.where(response[..., 0] == 6, 0.0, -torch.inf)

    response = distribution.sample((2_000,))
    inside = response[..., 0] == 6
    moved, log_weight, accepted = suffix_move(distribution, response, score(response), score)
    assert accepted[~inside].all()
    assert not accepted[inside].all()
    assert (moved[inside][:, 0] == 6).all()
    assert not log_weight.isnan().any()
    assert (moved[~inside][:, 0] == 6).any()


def test_a_rejected_move_leaves_the_response(world):
    distribution = response_distribution(world.guide, world.prompts)
    response = distribution.sample((50,))
    log_weight = torch.zeros(50, 2, dtype=torch.float64)
    stayed, new_log_weight, accepted = suffix_move(
        distribution, response, log_weight, lambda r: torch.full(r.shape[:-1], -1e9).double()
    )
    assert not accepted.any()
    assert torch.equal(stayed, response)
    assert torch.equal(new_log_weight, log_weight)


def test_redraws_keep_a_uniform_prefix(prior, prompts):
    """If the target is the proposal, a truncated response keeps 0, 1 or 2 tokens equally often."""
    distribution = prior(prompts)
    support = distribution.enumerate_support()
    # rare, so that a redraw shows
    long = support[support[:, 0, :2].ne(0).all(-1)][-1].expand(3_000, 2, 3)
    starts = []
    distribution.sample_suffix = lambda value, start: starts.append(start) or value
    _, _, accepted = suffix_move(
        distribution, long, torch.zeros(3_000, 2), lambda r: torch.zeros(r.shape[:-1])
    )
    assert accepted.all()
    shares = torch.bincount(starts[0].flatten(), minlength=4) / starts[0].numel()
    assert torch.allclose(shares, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]), atol=0.03)

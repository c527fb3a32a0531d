"""Adaptive rejection: exact draws, an unbiased Z, and a trie that holds what is ruled out."""

import pyro
import pytest
import torch

from inference.programs import response_distribution
from inference.samplers.adaptive_rejection import Search, Trie, adaptive_rejection_sampling
from inference.samplers.posterior import NoSupportError
from model import ResponseDistribution, TokenReward
from tests.inference.samplers.three_tokens import (
    NUM_WORDS,
    TableDecoder,
    assert_unbiased,
    code_of,
    graded,
    may_stand,
)

RUNS = 300


def allowed(prompts, response, t):
    assert response.shape == (1, len(prompts), 3)
    return may_stand(response)


@pytest.mark.parametrize("every_token", [True, False])
def test_z_and_means_are_unbiased_from_the_first_draw_on(constrained, prior, every_token):
    free = constrained.program(constrained.log_prior, TokenReward(graded, prior))
    options = {"num_samples": 24, "chunk": 4, "every_token": every_token}
    posterior = adaptive_rejection_sampling(free, constrained.repeated(RUNS), allowed, **options)
    assert_unbiased(constrained.z_ratio(posterior), torch.ones(2))
    is_accepted = posterior.log_weight.isfinite()
    assert may_stand(posterior.response[is_accepted]).all()
    assert (prior.space.is_token(posterior.response[~is_accepted]).sum(-1) == 1).all()
    # the last draws, of tries that have ruled out most, have the distribution of the first
    for part in (slice(0, 4), slice(20, 24)):
        weight = posterior.log_weight[part].isfinite().double()
        first = torch.isin(posterior.response[part, :, 0], torch.tensor([5, 2])).double()
        log_p = constrained.truth.log_prior.masked_fill(
            ~may_stand(constrained.truth.support), -torch.inf
        ).log_softmax(0)
        which = torch.isin(constrained.truth.support[..., 0], torch.tensor([5, 2])).double()
        expected = (log_p.exp() * which).sum(0)
        share = ((weight * first).sum(0).view(-1, 2).sum(0)) / weight.sum(0).view(-1, 2).sum(0)
        count = weight.sum(0).view(-1, 2).sum(0)
        error = (expected * (1 - expected) / count).sqrt()
        assert ((share - expected).abs() < 4 * error).all()


class CountingTrie(Trie):
    num_visits = 0

    def visit(self, *arguments):
        self.num_visits += 1
        super().visit(*arguments)


def test_all_prefixes_know_what_is_left_behind_them(constrained, prior):
    model, prompts = constrained.program(constrained.log_prior), constrained.prompts
    distribution = response_distribution(model, prompts, role="model")
    tries = [CountingTrie() for _ in prompts.texts]
    num_tests = torch.zeros(len(prompts), dtype=torch.long, device="cpu")  # where tries are
    rows = []

    def recorded(prompts, response, t):
        rows.extend(prompts.texts)
        return allowed(prompts, response, t)

    Search(recorded, prompts, tries, num_tests, True, distribution.space).draw(distribution, 16)
    assert num_tests.tolist() == [rows.count(text) for text in prompts.texts]
    for trie in tries:
        left = trie.log_left
        assert trie.num_visits == len(trie.prefixes)  # 16 draws have most prefixes in common
        for tokens in sorted(trie.prefixes, key=len, reverse=True):
            trie.update(tokens)
        assert trie.log_left == pytest.approx(left, abs=1e-12)
        assert left < -0.1


@pytest.mark.parametrize("every_token", [True, False])
def test_what_is_left_falls_to_the_mass_of_the_allowed(constrained, prior, every_token):
    model = constrained.program(constrained.log_prior)
    is_allowed = may_stand(constrained.truth.support)
    mass = constrained.truth.log_prior.exp().where(is_allowed, 0.0).sum(0)
    distribution = response_distribution(model, constrained.prompts, role="model")
    tries, num_tests = [Trie(), Trie()], torch.zeros(2, dtype=torch.long, device="cpu")
    options = allowed, constrained.prompts, tries, num_tests, every_token, distribution.space
    bounds = [torch.ones(2, dtype=torch.float64)]
    for _ in range(100):
        Search(*options).draw(distribution, 20)
        bounds.append(torch.tensor([trie.log_left for trie in tries], dtype=torch.float64).exp())
    assert (torch.stack(bounds).diff(dim=0) < 1e-9).all()
    assert (bounds[1] > bounds[-1] + 1e-4).all()
    assert (bounds[-1] > mass - 1e-9).all()
    assert torch.allclose(bounds[-1], mass, rtol=0, atol=1e-3 if every_token else 0.02)


def test_draws_of_the_tested_tokens_are_all_accepted_once_the_trie_is_full(constrained):
    model = constrained.program(constrained.log_prior)

    def first(prompts, response, t):
        return response[..., 0] % 2 == 0

    posterior = adaptive_rejection_sampling(
        model, constrained.prompts, first, num_samples=64, chunk=1
    )
    assert posterior.log_weight[1:].isfinite().all()
    even = constrained.truth.support[..., 0] % 2 == 0
    mass = constrained.truth.log_prior.exp().where(even, 0.0).sum(0)
    assert torch.allclose(posterior.diagnostics["bound"], mass, rtol=0, atol=1e-9)
    assert (posterior.diagnostics["num_tests"] > 64 + NUM_WORDS).all()


@pytest.mark.parametrize("log_share", [-23.0, -500.0])
@pytest.mark.parametrize("every_token", [True, False])
def test_a_small_mass_of_the_allowed_is_neither_lost_nor_rounded(
    constrained, log_share, every_token
):
    """The first two words are 7 or 9, each of a share of its prefix that is nothing beside 1."""
    rare, tables = torch.tensor([7, 9]), [constrained.log_prior[0]]
    for t in (1, 2, 3):
        table = constrained.log_prior[t].clone().unflatten(1, (NUM_WORDS, -1))
        table[:, rare] += log_share
        if t > 1:
            table.unflatten(2, (NUM_WORDS, -1))[:, :, rare] += log_share
        tables.append(table.flatten(1))
    code = (rare[:, None] * NUM_WORDS + rare).flatten()
    # a row of a table is of one prefix up to a factor
    first = tables[1].log_softmax(-1)
    second = tables[2].unflatten(1, (NUM_WORDS, -1)).log_softmax(-1).flatten(1)
    log_z = (first.repeat_interleave(NUM_WORDS, 1) + second)[:, code].logsumexp(-1)

    def begins_rarely(prompts, response, t):
        return torch.isin(response[..., : min(t, 2)], rare).all(-1)

    options = {"num_samples": 80, "chunk": 1, "every_token": every_token}
    model, prompts = constrained.program(tables), constrained.prompts
    posterior = adaptive_rejection_sampling(model, prompts, begins_rarely, **options)
    # a draw is accepted with any probability worth naming only when all else is ruled out
    acceptance = posterior.diagnostics["acceptance"]
    assert (acceptance > 0.4).all()
    assert torch.allclose(posterior.log_z - acceptance.log(), log_z, rtol=0, atol=1e-9)
    assert torch.allclose(posterior.diagnostics["bound"], log_z.exp(), rtol=1e-9, atol=0)


class Rounded(TableDecoder):
    """Two tables by turns, as two passes of a network in half precision differ."""

    def __init__(self, *tables):
        super().__init__(tables[0])
        self.tables, self.num_passes = tables, 0

    def start(self, prompts):
        self.log_tables = self.tables[self.num_passes % len(self.tables)]
        self.num_passes += 1
        return super().start(prompts)


@pytest.mark.parametrize("every_token", [True, False])
def test_z_is_unbiased_where_two_passes_over_a_prefix_differ(constrained, every_token):
    """The shares in the trie are of other passes than the probabilities of a draw."""
    noise = torch.randn(constrained.log_prior[3].shape, dtype=torch.float64)
    log_mass = constrained.log_prior[3] + 0.7 * noise
    second = [log_mass.unflatten(1, (NUM_WORDS**t, -1)).logsumexp(-1) for t in range(4)]
    decoder = Rounded(constrained.log_prior, second)

    def program(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            pyro.sample("response", ResponseDistribution(decoder, prompts, constrained.space))

    options = {"num_samples": 24, "chunk": 4, "every_token": every_token}
    posterior = adaptive_rejection_sampling(program, constrained.repeated(RUNS), allowed, **options)
    assert decoder.num_passes % 2 == 0
    code = code_of(constrained.truth.support)  # [S, 2]
    is_allowed = may_stand(constrained.truth.support)
    mass = [
        table[3].T.gather(0, code).exp().where(is_allowed, 0.0).sum(0) / table[3].exp().sum(-1)
        for table in (constrained.log_prior, second)
    ]
    assert (mass[0] / mass[1] - 1).abs().max() > 0.01
    assert_unbiased(posterior.log_z.exp().view(-1, 2), (mass[0] + mass[1]) / 2)


def test_nothing_that_may_stand_is_an_error(constrained):
    def none(prompts, response, t):
        return torch.zeros(response.shape[:-1], dtype=torch.bool)

    model = constrained.program(constrained.log_prior)
    with pytest.raises(NoSupportError, match="no response may stand, loosen `allowed`"):
        adaptive_rejection_sampling(model, constrained.prompts, none, num_samples=64)


def test_another_shape_of_allowed_is_refused(constrained):
    model = constrained.program(constrained.log_prior)
    with pytest.raises(ValueError, match="allowed returned shape"):
        adaptive_rejection_sampling(
            model, constrained.prompts, lambda prompts, response, t: response == 0
        )

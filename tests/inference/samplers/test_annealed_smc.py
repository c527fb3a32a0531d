"""Annealed sequential Monte Carlo: unbiased on a fixed schedule, consistent on an adaptive one.

Hard constraints are supported.
"""

import math

import pyro
import pytest
import torch

from inference import joint_at, log_guide_at
from inference.samplers.annealed_smc import annealed_smc, choose_temperature, log_tempered
from inference.samplers.posterior import NoSupportError
from inference.samplers.resampling import RESAMPLING
from model import Decoder, Prompts, ResponseDistribution, ResponseSpace, TokenReward
from tests.inference.samplers.three_tokens import assert_falls, assert_unbiased, graded

RUNS = 1_000


def run(world, *, runs=RUNS, num_samples=16, **kwargs):
    return annealed_smc(world.model, world.repeated(runs), num_samples=num_samples, **kwargs)


@pytest.mark.parametrize("resampling", sorted(RESAMPLING))
def test_z_is_unbiased_with_every_scheme(world, resampling):
    posterior = run(world, num_temperatures=3, moves=1, resampling=resampling, ess_threshold=0.8)
    assert_unbiased(world.z_ratio(posterior), torch.ones(2))
    assert_unbiased(world.mass(posterior), world.exact_mass())


@pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("with_guide", [False, True])
def test_z_is_unbiased_under_hard_constraints(hard_world, with_guide, ess_threshold):
    guide = hard_world.guide if with_guide else None
    options = {"num_temperatures": 3, "moves": 1, "num_samples": 24}
    posterior = run(hard_world, guide=guide, ess_threshold=ess_threshold, **options)
    assert_unbiased(hard_world.z_ratio(posterior), torch.ones(2))
    assert_unbiased(hard_world.mass(posterior), hard_world.exact_mass())
    assert (posterior.diagnostics["num_temperatures"] == 3).all()


def test_one_temperature_without_moves_is_importance_sampling(world):
    model, guide, prompts = world.network_model, world.network_guide, world.prompts
    options = {"num_samples": 100, "num_temperatures": 1, "moves": 0, "ess_threshold": 0.0}
    posterior = annealed_smc(model, prompts, guide=guide, **options)
    log_joint = joint_at(model, prompts, posterior.response).log_joint
    expected = log_joint - log_guide_at(guide, prompts, posterior.response)
    assert torch.allclose(posterior.log_weight, expected, atol=1e-9, rtol=0)
    log_z = expected.logsumexp(0) - math.log(100)
    assert torch.allclose(posterior.log_z, log_z, atol=1e-9, rtol=0)


@pytest.mark.parametrize("num_temperatures", [None, 4])
def test_a_proposal_that_is_the_posterior_is_exact(world, num_temperatures):
    posterior = run(world, runs=10, guide=world.posterior, num_temperatures=num_temperatures)
    assert torch.allclose(
        posterior.log_z.view(-1, 2), world.truth.log_z.expand(10, 2), atol=1e-9, rtol=0
    )
    acceptance = posterior.diagnostics["acceptance"]
    assert ((acceptance > 0.8) & (acceptance <= 1)).all()  # not 1: the lengths play a part
    assert (posterior.diagnostics["num_temperatures"] == (num_temperatures or 1)).all()


@pytest.mark.parametrize("ess_threshold", [0.5, 0.9])
def test_chosen_temperatures_are_consistent(hard_world, ess_threshold):
    """The mean square error of Z_hat and of means falls as the number of particles grows."""
    exact = hard_world.exact_mass() / hard_world.truth.log_z.exp()[:, None]
    errors = []
    for num_samples in (30, 300):
        posterior = run(hard_world, runs=100, num_samples=num_samples, ess_threshold=ess_threshold)
        means = hard_world.mass(posterior) / posterior.log_z.exp().view(-1, 2, 1)
        both = torch.cat([hard_world.z_ratio(posterior)[..., None] - 1, means - exact], -1)
        errors.append(both.square().sum(-1))
    assert_falls(*errors, factor=10)
    assert (errors[1].mean(0).sqrt() < 0.15).all()  # about 0.09, itself known to a tenth


def test_chosen_temperatures_hit_the_threshold():
    """For each prompt, the effective sample size falls just below the threshold, or lambda is 1."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 3.0, 30.0, 300.0])
    log_ratio = spread * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    temperature = choose_temperature(
        log_ratio, torch.zeros_like(log_ratio), torch.zeros(4).double(), 0.5
    )
    weight = (temperature * log_ratio).softmax(0)
    ess = 1 / weight.square().sum(0)
    assert temperature[0] == 1.0
    assert ess[0] > 100
    assert torch.allclose(ess[1:], torch.full((3,), 100.0).double(), atol=1e-3)
    assert (ess[1:] < 100).all()
    assert (temperature[1:].diff() < 0).all()


def test_impossible_responses_are_tempered():
    """w^lambda of an impossible response: 1 at 0, 0 at 1, exp(-1) at 1/2; else lambda log w."""
    log_ratio = torch.tensor([-torch.inf, 3.0, -2.0], dtype=torch.float64)[:, None].expand(3, 3)
    tempered = log_tempered(log_ratio, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert tempered[0].tolist() == [0.0, -1.0, -torch.inf]
    assert tempered[1].tolist() == [0.0, 1.5, 3.0]
    assert tempered[2].tolist() == [0.0, -1.0, -2.0]


def test_temperatures_are_chosen_with_care_where_nothing_possible_was_met():
    """All particles impossible: equal weights. One nat a step up to 20 nats, then the last step."""
    log_ratio = torch.full((10, 2), -torch.inf, dtype=torch.float64)
    temperature, steps = torch.zeros(2, dtype=torch.float64), 0
    while bool((temperature < 1).any()):
        penalty = temperature / (1 - temperature)
        temperature, steps = (
            choose_temperature(log_ratio, torch.zeros_like(log_ratio), temperature, 0.5),
            steps + 1,
        )
        assert (temperature == 1).all() or torch.allclose(
            temperature / (1 - temperature), penalty + 1
        )
    assert steps == 21


class Coin(Decoder):
    """Decoder without memory: heads (1) with probability 0.3, else tails (2), rarely the end."""

    log_prob = torch.tensor([0.001, 0.3, 0.699], dtype=torch.float64).log()

    def select(self, rows):
        return self

    def start(self, prompts):
        return self.log_prob.expand(len(prompts), -1), self

    def extend(self, state, ids):
        return self.log_prob.expand(*ids.shape, -1), self


def coins(num_tosses, log_likelihood_of):
    """Model of `num_coins` coins and log Z; the reward is a function of the number of heads."""
    space = ResponseSpace(num_tosses, 3, torch.tensor([0]), 0)

    def model(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", ResponseDistribution(Coin(), prompts, space))
            pyro.factor("reward", log_likelihood_of((response == 1).sum(-1).double()))

    tosses = torch.arange(num_tosses + 1).double()[:, None]
    heads = torch.arange(num_tosses + 1).double()
    log_choose = (
        torch.lgamma(tosses + 1)
        - torch.lgamma(heads + 1)
        - torch.lgamma((tosses - heads).clamp(min=0) + 1)
    )
    end = torch.where(tosses < num_tosses, Coin.log_prob[0], 0.0)
    log_prior = log_choose + heads * Coin.log_prob[1] + (tosses - heads) * Coin.log_prob[2] + end
    log_joint = (log_prior + log_likelihood_of(heads)).where(heads <= tosses, -torch.inf)
    return model, log_joint.logsumexp((0, 1))


def test_moves_separate_particles_that_resampling_made_equal():
    """Ten coins, 3 nats a head: at equal particles, moves more than halve the error of log Z."""
    model, log_z = coins(10, lambda heads: 3.0 * heads)
    prompts = Prompts.from_ids([[1]] * 100, ["toss"] * 100)
    moved = annealed_smc(model, prompts, num_samples=64, num_temperatures=20, moves=4)
    resampled = annealed_smc(model, prompts, num_samples=64, num_temperatures=20, moves=0)
    error, error_without = (
        (result.log_z - log_z).square().mean().sqrt() for result in (moved, resampled)
    )
    assert error < 0.5 * error_without, (error, error_without)
    assert (
        moved.diagnostics["num_distinct"].double().mean()
        > 1.5 * resampled.diagnostics["num_distinct"].double().mean()
    )


def test_finds_the_rare_responses_that_are_possible():
    """At least 8 heads of 10, prior probability 1.5e-3: 64 draws hardly ever have one, moves do.

    The responses found by moves are a sample. log Z_hat is unreliable, and `num_blind` says so.
    """
    model, log_z = coins(10, lambda heads: torch.where(heads >= 8, 0.0, -torch.inf).double())
    assert 0.001 < log_z.exp() < 0.002
    prompts, num_found, blind = Prompts.from_ids([[1]], ["toss"]), 0, 0
    for _ in range(20):
        try:
            posterior = annealed_smc(model, prompts, num_samples=64)
        except NoSupportError:
            continue
        possible = ~posterior.log_weight.isneginf()
        assert ((posterior.response == 1).sum(-1)[possible] >= 8).all()
        num_found, blind = num_found + 1, blind + int(posterior.diagnostics["num_blind"].item() > 0)
    assert num_found >= 14
    assert blind >= 10


def test_a_constraint_met_by_a_few_draws_is_weighed_right():
    """At least 7 heads of 10: five of 500 draws are possible, and Z_hat is unbiased."""
    model, log_z = coins(10, lambda heads: torch.where(heads >= 7, 0.0, -torch.inf).double())
    prompts = Prompts.from_ids([[1]] * 150, ["toss"] * 150)
    posterior = annealed_smc(model, prompts, num_samples=500, num_temperatures=4, moves=1)
    assert posterior.diagnostics["num_blind"].double().mean() < 0.1
    assert_unbiased((posterior.log_z - log_z).exp()[:, None], torch.ones(1), power=0.06)


def test_diagnostics_are_per_prompt(prior, world):
    """No reward at the first prompt: one temperature, every move accepted. Much at the second."""
    second = torch.tensor([0.0, 4.0], dtype=torch.float64)
    model = world.program(world.log_prior, TokenReward(lambda x, m: second * graded(x, m), prior))
    posterior = annealed_smc(model, world.prompts, num_samples=200)
    assert posterior.diagnostics["num_temperatures"][0] == 1
    assert posterior.diagnostics["num_temperatures"][1] >= 2
    assert posterior.diagnostics["acceptance"][0] > posterior.diagnostics["acceptance"][1] > 0.05
    assert posterior.diagnostics["num_distinct"][1] > 1
    assert posterior.log_z[0].abs() < 1e-12

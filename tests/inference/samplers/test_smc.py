"""Sequential Monte Carlo: unbiased for every proposal, twist and resampling scheme.

With the exact twist the estimate is exact.
"""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import joint_at, log_guide_at
from inference.samplers.particles import Stream
from inference.samplers.posterior import NoSupportError
from inference.samplers.resampling import RESAMPLING
from inference.samplers.smc import sequential_monte_carlo
from inference.samplers.twist import LikelihoodTwist
from model import AlignmentModel, TokenReward
from model.prior import decode
from model.prior.cached_state import CachedState
from tests.inference.samplers.three_tokens import assert_unbiased, graded

RUNS = 1_000


def rough_twist(prompts, response, t):
    """Twist that is an arbitrary function of the first t tokens and ignores the tokens after."""
    return torch.sin(3.0 * response[..., :t].sum(-1) + t).double()


def run(world, *, runs=RUNS, num_samples=16, **kwargs):
    kwargs |= {"num_samples": num_samples}
    return sequential_monte_carlo(world.model, world.repeated(runs), **kwargs)


@pytest.mark.parametrize("ess_threshold", [0.6, 2.0])
@pytest.mark.parametrize("resampling", sorted(RESAMPLING))
def test_z_is_unbiased_with_every_scheme(world, resampling, ess_threshold):
    """Z_hat and Z_hat times a weighted mean, with guide and twist."""
    twist = LikelihoodTwist(world.model, 0.7)
    options = {"guide": world.guide, "twist": twist, "resampling": resampling}
    posterior = run(world, ess_threshold=ess_threshold, **options)
    assert_unbiased(world.z_ratio(posterior), torch.ones(2))
    assert_unbiased(world.mass(posterior), world.exact_mass())
    resamplings = posterior.diagnostics["num_resamplings"].unique().tolist()
    assert resamplings == ([2] if ess_threshold > 1 else [0, 1, 2])


@pytest.mark.parametrize("twist", [None, rough_twist, "reward", "optimal"])
@pytest.mark.parametrize("proposal", ["prior", "guide"])
def test_z_is_unbiased_with_every_proposal_and_twist(world, proposal, twist):
    named = {"reward": LikelihoodTwist(world.model), "optimal": world.optimal_twist}
    twist, guide = named.get(twist, twist), world.guide if proposal == "guide" else None
    posterior = run(world, guide=guide, twist=twist, ess_threshold=0.8)
    assert_unbiased(world.z_ratio(posterior), torch.ones(2))
    assert_unbiased(world.mass(posterior), world.exact_mass())
    if twist is not None:
        assert (posterior.diagnostics["num_resamplings"] > 0).double().mean() > 0.1


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_z_is_unbiased_if_most_prefixes_are_impossible(hard_world, scale):
    twist = LikelihoodTwist(hard_world.model, scale)
    posterior = run(hard_world, twist=twist, num_samples=32, ess_threshold=0.9)
    assert (posterior.diagnostics["num_resamplings"] > 0).double().mean() > 0.4
    assert_unbiased(hard_world.z_ratio(posterior), torch.ones(2))
    assert_unbiased(hard_world.mass(posterior), hard_world.exact_mass(), power=0.06)


@pytest.mark.parametrize("twist", [None, rough_twist])
def test_without_resampling_weights_are_those_of_importance_sampling(world, twist):
    """The twist cancels, also in responses that end early; samples are scored as sampled."""
    model, guide, prompts = world.network_model, world.network_guide, world.prompts
    options = {"guide": guide, "num_samples": 500, "twist": twist, "ess_threshold": 0.0}
    posterior = sequential_monte_carlo(model, prompts, **options)
    log_joint = joint_at(model, prompts, posterior.response).log_joint
    expected = log_joint - log_guide_at(guide, prompts, posterior.response)
    assert torch.allclose(posterior.log_weight, expected, atol=1e-9, rtol=0)
    assert torch.allclose(posterior.log_z, expected.logsumexp(0) - math.log(500), atol=1e-9, rtol=0)
    assert posterior.log_weight.dtype == torch.float64
    assert len(world.space.is_token(posterior.response).sum(-1).unique()) >= 2
    assert world.space.contains(posterior.response).all()


def test_temperature_of_prior_and_guide_is_in_the_weights(world):
    network_guide = copy.deepcopy(world.network_guide)
    network_guide.language_model.temperature = 1.7
    args = {"guide": network_guide, "num_samples": 200, "ess_threshold": 0.0}
    posterior = sequential_monte_carlo(world.network_model, world.prompts, **args)
    log_joint = joint_at(world.network_model, world.prompts, posterior.response).log_joint
    expected = log_joint - log_guide_at(network_guide, world.prompts, posterior.response)
    assert torch.allclose(posterior.log_weight, expected, atol=1e-9, rtol=0)
    stream = Stream(network_guide.distribution(world.prompts).at_temperature(1e-4), 20)
    assert torch.equal(stream.sample(), stream.logits.argmax(-1).view(20, 2))


@pytest.mark.parametrize("with_guide", [False, True])
def test_a_real_cache_is_reordered(world, with_guide):
    """Networks, not tables: a particle continues from the keys and values of its ancestor."""
    guide = world.network_guide if with_guide else None
    model, prompts = world.network_model, world.repeated(300)
    options = {"guide": guide, "twist": LikelihoodTwist(model), "ess_threshold": 2.0}
    posterior = sequential_monte_carlo(model, prompts, num_samples=16, **options)
    assert_unbiased(world.z_ratio(posterior), torch.ones(2), power=0.05)
    assert_unbiased(world.mass(posterior), world.exact_mass(), power=0.1)


@pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("resampling", sorted(RESAMPLING))
def test_optimal_twist_and_proposal_are_exact_in_every_run(world, resampling, ess_threshold):
    options = {"guide": world.posterior, "twist": world.optimal_twist, "resampling": resampling}
    posterior = run(world, runs=20, num_samples=3, ess_threshold=ess_threshold, **options)
    log_z = world.truth.log_z.expand(20, 2)
    assert torch.allclose(posterior.log_z.view(-1, 2), log_z, atol=1e-9, rtol=0)
    assert torch.allclose(posterior.effective_sample_size, torch.full((40,), 3.0).double())


def test_a_twist_may_change_the_responses_that_it_gets(world):
    def careless(prompts, response, t):
        log_psi = rough_twist(prompts, response, t)
        response.fill_(1)
        return log_psi

    posteriors = []
    for twist in (rough_twist, careless):
        pyro.set_rng_seed(0)
        posteriors.append(run(world, runs=5, twist=twist))
    careful, changed = posteriors
    assert torch.equal(careful.response, changed.response)


def test_a_prompt_that_does_not_degenerate_is_left_alone(world):
    """Twist for one prompt: the other is never resampled, with all roots and equal weights."""

    def lopsided(prompts, response, t):
        return rough_twist(prompts, response, t) * torch.tensor([5.0, 0.0])

    free = world.program(world.log_prior)  # no reward: Z = 1
    posterior = sequential_monte_carlo(free, world.prompts, num_samples=50, twist=lopsided)
    assert posterior.diagnostics["num_resamplings"][0] > 0
    assert posterior.diagnostics["num_resamplings"][1] == 0
    assert posterior.diagnostics["num_roots"][0] < 50
    assert posterior.diagnostics["num_roots"][1] == 50
    distinct = [len(posterior.response[:, n].unique(dim=0)) for n in range(2)]
    assert posterior.diagnostics["num_distinct"].tolist() == distinct  # no weight is 0
    assert posterior.log_z[1].abs() < 1e-12
    assert (posterior.log_weight[:, 1] == 0).all()


def test_decoding_is_not_done_for_nothing(world, monkeypatch):
    """Run the prior once as the proposal, select states only to resample, stop when all ended."""
    network, selected = world.network_model.prior.network, []
    calls = []
    hook = network.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    select = CachedState.select
    monkeypatch.setattr(
        CachedState, "select", lambda self, rows: selected.append(len(rows)) or select(self, rows)
    )
    monkeypatch.setattr(decode, "DROP", -1.0)  # a decode selects once
    try:
        sequential_monte_carlo(world.network_model, world.prompts, num_samples=10)
        # running the model for its distribution samples a response: passes, selections
        program = (3, 1)
        assert (len(calls), len(selected)) == (program[0] + 3, program[1] + 1)
        calls.clear()
        posterior = sequential_monte_carlo(
            world.network_model, world.prompts, guide=only_end(world), num_samples=10
        )
        assert (posterior.response == 0).all()
        assert len(calls) == program[0] + 1
    finally:
        hook.remove()


def only_end(world):
    """A guide whose responses end at once."""
    tables = [table.clone() for table in world.log_prior]
    tables[1][:, 1:] = -torch.inf
    return world.program(tables)


def test_likelihood_twist_scores_the_closed_prefix(hard_world):
    """The prefix is closed by the end id and scaled; floored unless the response has ended."""
    twist = LikelihoodTwist(hard_world.network_model, 0.5, floor=2.0)
    good, bad = 7, 8
    rows = torch.tensor([[good, 0, 0], [bad, 0, 0], [bad, good, 0], [0, 0, 0]])
    is_token = torch.tensor([[True, True, False], [True, True, True]])
    one, two = (0.5 * graded(rows[[0, 2]], is_token)).tolist()
    for t, values in ((1, [one, -2.0, -2.0, -torch.inf]), (2, [one, -torch.inf, two, -torch.inf])):
        log_psi = twist(hard_world.prompts, rows[:, None].expand(-1, 2, -1), t)
        assert torch.allclose(log_psi, torch.tensor(values).double()[:, None].expand(-1, 2))


def test_no_possible_response_is_an_error(world, prior):
    nothing = TokenReward(lambda response, _: torch.full(response.shape[:-1], -torch.inf), prior)
    model = AlignmentModel(prior, nothing, beta=1.0)
    fault = r"all 5 responses drawn for 'the film was' are impossible .* draw more"
    with pytest.raises(NoSupportError, match=fault):
        sequential_monte_carlo(model, world.prompts, num_samples=5)
    twist = lambda p, x, t: torch.full(x.shape[:-1], -torch.inf)  # noqa: E731
    with pytest.raises(NoSupportError, match="after 1 tokens"):
        sequential_monte_carlo(world.network_model, world.prompts, num_samples=5, twist=twist)


def test_a_twist_of_zero_is_final(world):
    """-inf for prefixes with `very`: weights 0, none NaN; the rest estimates its share of Z."""

    def forbid(prompts, response, t):
        return torch.where(response[..., 0] == 6, -torch.inf, 0.0)

    posterior = run(world, twist=forbid, ess_threshold=0.0)
    assert not posterior.log_weight.isnan().any()
    is_possible = posterior.response[..., 0] != 6
    assert torch.equal(posterior.log_weight.isneginf(), ~is_possible)
    assert torch.equal(posterior.diagnostics["num_roots"], is_possible.sum(0))
    joint = world.truth.log_joint.exp()
    share = (joint * (world.truth.support[..., 0] != 6)).sum(0) / joint.sum(0)
    assert_unbiased(world.z_ratio(posterior), share)


def test_a_response_that_ended_keeps_the_twist_it_ended_with(world):
    """Half of the responses end at once; later twists of these do not matter, not even -inf."""
    tables = [table.clone() for table in world.log_prior]
    tables[1][:, 0] = 0.0
    guide = world.program(tables)

    def forgetful(prompts, response, t):
        has_ended = (response[..., 0] == 0) & (t > 1)
        return torch.where(has_ended, -torch.inf, rough_twist(prompts, response, t))

    options = {"guide": guide, "num_samples": 100, "twist": forgetful, "ess_threshold": 0.0}
    posterior = sequential_monte_carlo(world.model, world.prompts, **options)
    expected = joint_at(world.model, world.prompts, posterior.response).log_joint
    expected = expected - log_guide_at(guide, world.prompts, posterior.response)
    assert (posterior.response[..., 0] == 0).double().mean() > 0.3
    assert torch.allclose(posterior.log_weight, expected, atol=1e-9, rtol=0)


def test_errors_name_the_expected_value(world):
    def of_one_size(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            one = dist.Categorical(torch.ones(10)).expand([3]).to_event(1)
            pyro.sample("response", one.expand([len(prompts)]))

    with pytest.raises(TypeError, match="expected a ResponseDistribution"):
        sequential_monte_carlo(world.model, world.prompts, guide=of_one_size)
    with pytest.raises(ValueError, match=r"twist returned has shape \(4,\) .*of shape \(4, 2\)"):
        sequential_monte_carlo(
            world.model, world.prompts, num_samples=4, twist=lambda p, x, t: torch.zeros(4)
        )

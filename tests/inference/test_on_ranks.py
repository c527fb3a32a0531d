"""Samplers and diagnostics on two ranks: the draws and the numbers of one process."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from inference import (
    OBJECTIVES,
    SAMPLERS,
    Posterior,
    diagnose,
    random_state,
    sample_prior,
    sequential_monte_carlo,
)
from inference.samplers.token_rejection import TokenRejection
from model import AlignmentModel, LanguageModel, Prompts
from tests.inference.svi.test_micro_batches import new_guide
from tests.inference.svi.test_ranks import reward
from tests.inference.svi.test_ranks import world as world_of_beta

pytestmark = pytest.mark.on_cpu  # as the processes of `group`


def world() -> tuple[LanguageModel, AlignmentModel, Prompts]:
    """A likelihood of at most three nats, which is less than the bound for rejection."""
    prior, _, prompts = world_of_beta(torch.float64)
    return prior, AlignmentModel(prior, reward, beta=2.0), prompts


def sampled(name: str, *, has_guide: bool) -> tuple[Posterior, Tensor, int]:
    """Result of a sampler, the next random number, and the most responses that q or p0 reads."""
    prior, model, prompts = world()
    guide = new_guide(OBJECTIVES["leave-one-out"], prior, prompts) if has_guide else None
    sizes = [0]

    def record(_, __, keywords):
        sizes.append(len(keywords["input_ids"]))

    prior.network.register_forward_pre_hook(record, with_kwargs=True)
    options = {"log_bound": 4.0} if SAMPLERS[name].needs_bound else {}
    with random_state.isolated(3):
        sampler = SAMPLERS[name].sample
        posterior = sampler(model, prompts, guide=guide, num_samples=64, **options)
        return posterior, torch.rand(1), max(sizes)


@pytest.mark.parametrize("has_guide", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_on_two_ranks_has_the_draws_of_one_process(group, name, has_guide):
    whole, following, _ = sampled(name, has_guide=has_guide)
    for posterior, next_number, _ in group.run(sampled, name, has_guide=has_guide):
        assert torch.equal(posterior.response, whole.response)
        assert torch.allclose(posterior.log_weight, whole.log_weight, rtol=0, atol=1e-9)
        assert torch.equal(next_number, following)


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_rank_reads_half_of_the_responses_of_a_sampler(group, name):
    _, _, most = sampled(name, has_guide=False)
    for _, _, largest in group.run(sampled, name, has_guide=False):
        assert largest <= 0.7 * most


def with_rejection() -> tuple[Posterior, Tensor]:
    """Sequential Monte Carlo with tests of tokens, and the next random number."""
    _, model, prompts = world()

    def allowed(prompts: Prompts, response: Tensor, t: int) -> Tensor:
        return (response[..., :t] % 3 != 1).all(-1)

    with random_state.isolated(5):
        rejection = TokenRejection(allowed, extra_tests=2)
        posterior = sequential_monte_carlo(model, prompts, num_samples=16, rejection=rejection)
        return posterior, torch.rand(1)


def test_rejection_of_tokens_on_two_ranks_is_that_of_one_process(group):
    whole, following = with_rejection()
    for posterior, next_number in group.run(with_rejection):
        assert torch.equal(posterior.response, whole.response)
        assert torch.allclose(posterior.log_weight, whole.log_weight, rtol=0, atol=1e-9)
        assert torch.equal(next_number, following)


def measured() -> list[float]:
    """Estimates of `diagnose` with their errors, and log Z of prior draws."""
    prior, model, prompts = world()
    guide = new_guide(OBJECTIVES["leave-one-out"], prior, prompts)
    with random_state.isolated(4):
        diagnostics = diagnose(model, guide, prompts, num_samples=50, num_prior_draws=50)
        sample = sample_prior(model, prompts, 50, independent=True)
    estimates = [getattr(diagnostics, field.name) for field in fields(diagnostics)][:11]
    return [number for estimate in [*estimates, sample.log_z()] for number in estimate]


def test_diagnostics_on_two_ranks_are_those_of_one_process(group):
    expected = measured()
    for numbers in group.run(measured):
        assert numbers == pytest.approx(expected, rel=1e-9)

"""From soft constraints to hard ones."""

import pyro
import pytest
import torch
from torch.testing import assert_close

from guides import Tabular
from inference import Enumeration, FusedOptimizer, anneal, cosine, importance_sampling
from inference.svi.anneal import soften
from model import (
    AlignmentModel,
    ImpossibleResponseError,
    OptimalityModel,
    TextReward,
    contains,
    vader_sentiment,
)
from model.prior.grammar import PROMPTS
from tests.inference.conftest import parameters_of


@pytest.fixture(scope="module")
def prompts(small_prior):
    return small_prior.encode(PROMPTS)


@pytest.fixture(scope="module")
def hard(small_prior):
    reward = TextReward(vader_sentiment, small_prior)
    return AlignmentModel(small_prior, reward, 0.5, {"very": contains("very", small_prior)})


@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_softened_model_has_the_penalty_in_place_of_minus_infinity(hard, prompts, penalty):
    truth, soft = Enumeration(hard, prompts), Enumeration(soften(hard, penalty), prompts)
    forbidden = truth.log_likelihood.isneginf()
    assert_close(soft.log_likelihood[~forbidden], truth.log_likelihood[~forbidden], rtol=0, atol=0)
    taste = hard.reward(prompts, truth.support) / 0.5
    assert_close(soft.log_likelihood[forbidden], taste[forbidden] - penalty, rtol=0, atol=1e-12)


def test_forbidden_probability_falls_as_the_docstring_says(small_prior, prompts):
    hard = AlignmentModel(small_prior, {}, 1.0, {"very": contains("very", small_prior)})
    truth = Enumeration(hard, prompts)
    z, forbidden = truth.log_z.exp(), truth.log_likelihood.isneginf()
    for penalty in (1.0, 4.0):
        soft = Enumeration(soften(hard, penalty), prompts)
        left = (soft.log_posterior.exp() * forbidden).sum(0)
        small = torch.exp(torch.tensor(-penalty, dtype=torch.float64))
        assert_close(left, (1 - z) * small / (z + (1 - z) * small), rtol=0, atol=1e-12)


def test_softening_ends_with_the_program(hard, prompts):
    soften(hard, 1.0)(prompts)
    with pyro.plate("particles", 64, dim=-2), pytest.raises(ImpossibleResponseError):
        hard(prompts)


@pytest.mark.slow
def test_annealed_guide_avoids_forbidden_responses_and_importance_removes_the_rest(
    hard, small_prior, prompts
):
    guide = Tabular(small_prior, prompts)
    stages = anneal(
        hard,
        guide,
        prompts,
        num_steps=60,
        penalties=(1.0, 3.0, 6.0),
        optimizer=lambda steps: FusedOptimizer(options={"lr": 0.1}, schedule=cosine(steps)),
        progress=False,
    )
    assert [stage.penalty for stage in stages] == [1.0, 3.0, 6.0]
    forbidden = [stage.forbidden for stage in stages]
    assert forbidden[0] > forbidden[1] > forbidden[2]
    truth = Enumeration(hard, prompts)
    exact = (truth.log_guide(guide).exp() * truth.log_likelihood.isneginf()).sum(0).mean().item()
    assert exact == pytest.approx(forbidden[-1], abs=0.02)
    assert exact < 0.02
    assert (Enumeration(soften(hard, 6.0), prompts).kl_guide_posterior(guide) < 0.05).all()
    posterior = importance_sampling(hard, prompts, guide=guide, num_samples=2000)
    assert_close(posterior.log_z, truth.log_z, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "options", [{"penalties": (1.0, torch.inf)}, {"penalties": (0.0, 1.0)}, {"num_samples": 0}]
)
def test_impossible_annealing_is_refused_before_the_guide_changes(
    hard, small_prior, prompts, options
):
    guide = Tabular(small_prior, prompts)
    before = parameters_of(guide)
    with pytest.raises(ValueError, match=r"expected a positive finite number|num_samples is 0"):
        anneal(hard, guide, prompts, num_steps=1, progress=False, **options)
    assert torch.equal(parameters_of(guide), before)


def test_constraint_inside_a_reward_is_refused_with_the_way_out(small_prior, prompts):
    """A penalty instead of the whole factor would prefer forbidden responses."""
    very = contains("very", small_prior)
    model = AlignmentModel(small_prior, lambda prompts, x: very(prompts, x) - 20.0, 1.0)
    match = r"factor 'reward' is -inf in places and other than 0.*a name of its own"
    with pytest.raises(ValueError, match=match):
        Enumeration(soften(model, 8.0), prompts)


def test_observed_optimality_softens_alike(small_prior, prompts):
    taste = TextReward(vader_sentiment, small_prior, upper_bound=1.0)
    model = AlignmentModel(small_prior, taste, 0.5, {"very": contains("very", small_prior)})
    plain, control = (
        Enumeration(soften(program, 3.0), prompts) for program in (model, OptimalityModel(model))
    )
    assert_close(control.log_posterior, plain.log_posterior, rtol=0, atol=1e-12)


def test_guide_of_parameters_that_end_with_a_stage_is_refused(hard, small_prior, prompts):
    """A function with `pyro.param` would start again at each stage; a module continues."""
    table = Tabular(small_prior, prompts)

    def forgets(prompts):
        scale = pyro.param("scale", torch.ones(()))
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample(
                "response", small_prior(prompts).at_temperature(1.0 + 0 * scale.item())
            )

    def keeps(prompts):
        pyro.module("table", table)
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", table.distribution(prompts))

    match = r"the guide makes its parameter 'scale' with `pyro.param`"
    with pytest.raises(ValueError, match=match):
        anneal(hard, forgets, prompts, num_steps=1, progress=False)
    before = table.table.detach().clone()
    stages = anneal(
        hard, keeps, prompts, num_steps=1, penalties=(1.0, 2.0), num_samples=2, progress=False
    )
    assert len(stages) == 2
    assert not torch.equal(table.table, before)

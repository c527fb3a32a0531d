"""A reward that returns None for a prompt is absent there: no factor, no bound, no mean."""

import math

import pyro
import pytest
import torch
from pyro import poutine

from experiments.shared.measure import measure
from guides import GUIDES, FineTuned
from inference import (
    OBJECTIVES,
    Enumeration,
    LeaveOneOut_ELBO,
    fit,
    match_moments,
    rejection_sampling,
    sample_prior,
    solve_beta,
)
from inference.estimate import expectation
from inference.svi.checkpoint.description import describe
from inference.targets.kl_budget import BudgetError
from model import (
    AlignmentModel,
    Constraint,
    LikelihoodError,
    OptimalityModel,
    Pattern,
    TextReward,
    Tilt,
    WeightedSum,
    grammar_prior,
)
from tests.inference.objectives.uses import ONE_OF_EACH_USE

BETA = 0.5


def rightness(completions, answer, **kwargs):
    """1 for the answer, 0 for another response, None without an answer."""
    return [
        None if right is None else float(text == right)
        for text, right in zip(completions, answer, strict=True)
    ]


@pytest.fixture(scope="module")
def questions(prior):
    """Three prompts; the one in the middle has no answer."""
    columns = {"answer": ["good", None, "bad"]}
    return prior.encode(["the film was", "the plot was", "the plot was"], columns=columns)


@pytest.fixture
def reward(prior):
    return TextReward(rightness, prior, upper_bound=1.0)


@pytest.fixture
def model(prior, reward):
    return AlignmentModel(prior, reward, BETA)


@pytest.fixture
def truth(model, questions):
    return Enumeration(model, questions)


@pytest.fixture(scope="module")
def small_world():
    """A prior with few responses, two prompts, of which the second has no answer, and the model."""
    prior = grammar_prior(max_new_tokens=2, steps=30)
    prompts = prior.encode(["the film was", "the plot was"], {"answer": ["good", None]})
    return prior, prompts, AlignmentModel(prior, TextReward(rightness, prior), BETA)


@pytest.fixture(scope="module")
def very(prior):
    """Reward of all prompts."""
    return TextReward(Pattern.of_words("very"), prior)


def test_value_is_nan_and_the_factor_is_absent_where_the_reward_does_not_apply(
    prior, model, reward, truth, questions
):
    assert reward.applies(questions).tolist() == [True, False, True]
    values = reward(questions, truth.support)
    assert values.isnan().all(0).tolist() == [False, True, False]
    assert not values[:, [0, 2]].isnan().any()
    assert model.reward(questions, truth.support).isnan().all(0).tolist() == [False, True, False]
    assert torch.equal(truth.log_likelihood[:, 1], torch.zeros(len(truth.support)).double())
    assert torch.equal(truth.log_posterior[:, 1], truth.log_prior[:, 1] - truth.log_z[1])
    with_answer = questions[[0, 2]]
    alone = Enumeration(model, with_answer)
    assert torch.allclose(truth.log_posterior[:, [0, 2]], alone.log_posterior, atol=1e-13)


def test_program_masks_the_site_at_the_prompt(model, questions):
    site = poutine.trace(model).get_trace(questions).nodes["reward"]
    assert site["mask"].tolist() == [True, False, True]
    everywhere = questions[[0, 2]]
    assert poutine.trace(model).get_trace(everywhere).nodes["reward"]["mask"] is None


def test_absent_bound_is_zero(model, questions, prior, reward):
    assert model.log_likelihood_bound(questions).tolist() == [1 / BETA, 0.0, 1 / BETA]
    assert model.log_likelihood_bound(questions[[0]]) == 1 / BETA
    punished = TextReward(
        lambda completions, answer: [
            each and each - 1.5 for each in rightness(completions, answer)
        ],
        prior,
        upper_bound=-0.5,
    )
    both = WeightedSum({"right": (2.0, reward), "punished": (1.0, punished)})
    bounds = AlignmentModel(prior, both, 1.0).log_likelihood_bound(questions)
    assert bounds.tolist() == [1.5, 0.0, 1.5]


def test_rejection_accepts_each_draw_of_the_prior_at_the_prompt(model, questions):
    posterior = rejection_sampling(model, questions, num_samples=64)
    assert posterior.diagnostics["acceptance"][1] == 1.0
    assert (posterior.diagnostics["acceptance"][[0, 2]] < 1.0).all()


def test_optimality_model_has_the_same_posterior(model, truth, questions):
    optimal = Enumeration(OptimalityModel(model), questions)
    assert torch.allclose(optimal.log_posterior, truth.log_posterior, atol=1e-12)
    assert optimal.log_z[1].item() == pytest.approx(truth.log_z[1].item(), abs=1e-12)


def test_sum_of_rewards_is_over_those_that_apply(prior, reward, very, questions, truth):
    weighted = WeightedSum({"right": (2.0, reward), "very": (0.5, very)})
    plain = very(questions, truth.support)
    expected = 0.5 * plain + 2.0 * reward(questions, truth.support).nan_to_num(0.0)
    assert torch.equal(weighted(questions, truth.support), expected)
    assert weighted.applies(questions).all()
    twice = WeightedSum({"right": (2.0, reward), "again": (1.0, reward)})
    assert twice.applies(questions).tolist() == [True, False, True]
    assert twice(questions, truth.support)[:, 1].isnan().all()
    several = AlignmentModel(prior, {"right": reward, "very": very}, BETA)
    assert torch.equal(
        several.reward(questions, truth.support),
        plain + reward(questions, truth.support).nan_to_num(0.0),
    )
    assert several.applies(questions).all()


def test_constraint_and_tilt_are_absent_where_their_reward_is(prior, reward, questions, truth):
    right = Constraint(reward, at_least=1.0)
    given = Enumeration(AlignmentModel(prior, {}, 1.0, {"right": right}), questions)
    assert torch.equal(given.log_posterior[:, 1], truth.log_prior[:, 1] - given.log_z[1])
    success = reward(questions, truth.support)[:, 0] == 1.0
    assert given.log_posterior[~success, 0].isneginf().all()
    tilt = Tilt({"right": reward}, {"right": 1 / BETA})
    tilted = Enumeration(AlignmentModel(prior, {}, 1.0, {"tilt": tilt}), questions)
    assert torch.allclose(tilted.log_posterior, truth.log_posterior, atol=1e-12)
    bounds = AlignmentModel(prior, {}, 1.0, {"tilt": tilt}).log_likelihood_bound(questions)
    assert bounds.tolist() == [1 / BETA, 0.0, 1 / BETA]


def test_mean_reward_leaves_the_prompt_out(prior, model, truth, questions):
    guide, applies = FineTuned(prior), model.applies(questions)
    prob = truth.log_guide(guide).exp()
    mean = expectation(prob, model.reward(questions, truth.support))[applies].mean().item()
    assert mean > 0
    exact = measure(model, guide, questions, truth=truth)["reward"]
    assert exact.value == pytest.approx(mean)
    sample = sample_prior(model, questions, 64, independent=True)
    options = {"num_samples": 512, "prior_sample": sample}
    estimate = measure(model, guide, questions, **options)["reward"]
    assert abs(estimate.value - mean) < 4 * estimate.standard_error
    assert 0 < estimate.standard_error < 0.3 * mean


def test_metrics_of_a_step_leave_the_prompt_out(prior, model, questions):
    """E_q[r] of the step and its log likelihood, which is 0 at the prompt without a reward."""
    guide, objective = FineTuned(prior), LeaveOneOut_ELBO(num_particles=32)
    (record,) = fit(
        model, guide, questions, num_steps=1, objective=objective, progress=False
    ).metrics
    assert record["reward"] > 0
    assert record["reward"] * 2 / 3 / BETA == pytest.approx(record["log_likelihood"], rel=1e-6)
    nothing = questions[[1]]
    (record,) = fit(model, guide, nothing, num_steps=1, objective=objective, progress=False).metrics
    assert math.isnan(record["reward"])
    assert record["log_likelihood"] == 0


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_steps_on_one_prompt_each_train_where_there_is_a_reward(
    prior, model, questions, micro_batch
):
    """A step on the prompt without a reward has none, and its gradient is that of the KL alone."""
    options = {"prompts_per_step": 1, "micro_batch": micro_batch, "progress": False}
    objective = LeaveOneOut_ELBO(num_particles=8)
    records = fit(
        model, FineTuned(prior), questions, num_steps=6, objective=objective, **options
    ).metrics
    absent = [record for record in records if math.isnan(record["reward"])]
    assert len(absent) == 2  # of three prompts, each twice
    assert all(record["log_likelihood"] == 0 for record in absent)
    assert all(math.isfinite(record["elbo"]) for record in records)


def test_beta_of_a_budget_of_reward_is_over_the_prompts_with_one(prior, reward, questions):
    among = solve_beta(prior, reward, questions, min_reward=0.5)
    alone = solve_beta(prior, reward, questions[[0, 2]], min_reward=0.5)
    assert among.beta == pytest.approx(alone.beta, rel=1e-9)
    assert among.reward.value == pytest.approx(0.5, rel=1e-9)
    assert among.kl.value == pytest.approx(alone.kl.value * 2 / 3, rel=1e-9)
    with pytest.raises(BudgetError, match="no reward applies to the prompt"):
        solve_beta(prior, reward, questions, max_kl=0.1, per_prompt=True)
    with pytest.raises(BudgetError, match="no reward applies to the prompt"):
        solve_beta(prior, reward, questions[[1]], max_kl=0.1)


@pytest.mark.parametrize("num_draws", [4096, 400])
def test_moment_is_matched_over_the_prompts_with_the_feature(
    prior, reward, very, questions, num_draws
):
    base = AlignmentModel(prior, {}, 1.0)
    features, targets = {"right": reward, "very": very}, {"right": 0.5, "very": 0.4}
    pyro.set_rng_seed(1)
    match = match_moments(base, questions, features, targets, num_draws=num_draws)
    assert match.attainable
    for name, target in targets.items():
        assert match.moments[name].value == pytest.approx(target, abs=1e-6)
    model = AlignmentModel(prior, {}, 1.0, {"moments": match.factor})
    truth = Enumeration(model, questions)
    values = reward(questions, truth.support)[:, [0, 2]]
    mean = expectation(truth.log_posterior.exp()[:, [0, 2]], values).mean().item()
    assert mean == pytest.approx(0.5, abs=1e-6 if num_draws == 4096 else 0.15)


def test_mean_of_a_prior_sample_is_over_the_chosen_prompts(model, questions, truth):
    sample = sample_prior(model, questions, 4096)
    reward, applies = model.reward(questions, sample.response), model.applies(questions)
    mean = sample.mean(sample.log_likelihood, reward, applies)
    expected = expectation(truth.log_posterior.exp(), reward)[applies].mean().item()
    assert mean.value == pytest.approx(expected)
    nothing = sample.mean(sample.log_likelihood, reward, torch.zeros_like(applies))
    assert math.isnan(nothing.value)


def test_mixture_within_one_prompt_is_an_error_with_the_text(prior, questions, truth):
    def moody(completion):
        return None if completion == "good" else 0.5

    message = (
        r"'moody' returned (None for the text 'good', and a number|0\.5 for the text '.*', and "
        r"None) for another response to the prompt 'the film was'"
    )
    with pytest.raises(LikelihoodError, match=message):
        TextReward(moody, prior)(questions, truth.support)


def test_prompt_that_applied_before_applies_for_good(prior, questions, truth):
    later = []

    def forgetful(completion):
        return None if later else 0.5

    reward = TextReward(forgetful, prior, cache_size=0)
    reward(questions, truth.support[:4])
    later.append(True)
    with pytest.raises(LikelihoodError, match=r"'forgetful' returned None .* a number"):
        reward(questions, truth.support[:4])


def test_memory_of_prompts_is_no_part_of_the_description_of_a_reward(reward, questions):
    before = describe(reward, trains=False)
    assert reward.applies(questions).any()
    assert describe(reward, trains=False) == before


class Partial:
    """A reward of its own for the prompts with an answer."""

    def __init__(self, value, applies):
        self.value, self.mask = value, applies

    def applies(self, prompts):
        return self.mask

    def __call__(self, prompts, response):
        return self.value.expand(response.shape[:-1])


def test_any_reward_may_leave_prompts_out_and_is_checked(prior, questions, truth):
    somewhere = torch.tensor([True, False, True])
    value = torch.tensor([1.0, math.nan, 2.0])
    model = AlignmentModel(prior, Partial(value, somewhere), 1.0)
    assert torch.equal(
        Enumeration(model, questions).log_likelihood[0], torch.tensor([1.0, 0.0, 2.0]).double()
    )
    for wrong, applies, message in (
        (value.nan_to_num(0.0), somewhere, "returned 0.0 at index .* does not apply, expected NaN"),
        (value, ~somewhere, "does not apply, expected NaN"),
        (value, torch.ones(3, dtype=torch.bool), "returned nan at index"),
        (value, somewhere[:2], "expected 3 booleans"),
    ):
        with pytest.raises(LikelihoodError, match=message):
            AlignmentModel(prior, Partial(wrong, applies), 1.0).reward(questions, truth.support)


@pytest.mark.parametrize("name", ONE_OF_EACH_USE)
def test_every_kind_of_objective_steps_on_prompts_with_and_without_a_reward(name, small_world):
    prior, prompts, model = small_world
    entry = OBJECTIVES[name]
    guide = GUIDES[entry.guide](prior, prompts)
    batch = prompts if entry.max_prompts is None else prompts[[1]]
    objective = entry(num_particles=8)
    (record,) = fit(model, guide, batch, num_steps=1, objective=objective, progress=False).metrics
    assert math.isfinite(record["loss"])
    if entry.max_prompts is not None:
        assert math.isnan(record["reward"])
    else:
        assert record["reward"] / 2 / BETA == pytest.approx(record["log_likelihood"], abs=1e-6)
    assert all(bool(parameter.isfinite().all()) for parameter in guide.parameters())

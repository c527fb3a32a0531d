"""Metrics of the responses of a step: the names of TRL, each number against its definition."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from guides import GUIDES, FineTuned
from inference import OBJECTIVES, RewardToGo_ELBO
from inference.objectives.parts.draws import Draws, matrices
from inference.objectives.parts.surrogate_loss import read
from inference.objectives.proximal import Proximal_ELBO
from inference.svi.anneal import soften
from inference.svi.response_metrics import ModelRuns, response_numbers, with_kl
from model import AlignmentModel, TextReward, contains, vader_sentiment
from tests.inference.conftest import killed_and_resumed, quiet
from tests.inference.objectives.uses import ONE_OF_EACH_USE

REWARD = {"reward", "reward_std", "frac_reward_zero_std"}
RESPONSES = {"kl", "kl_per_token", "completions/mean_length", "completions/clipped_ratio"}


@pytest.fixture(scope="module")
def two_rewards(small_prior):
    """Model with two rewards, which add up, and a factor, which is no reward."""
    rewards = {
        "vader": TextReward(vader_sentiment, small_prior),
        "length": lambda _, response: 0.1 * small_prior.space.is_token(response).sum(-1),
    }
    factors = {"constant": lambda _, response: torch.full(response.shape[:-1], -0.5)}
    return AlignmentModel(small_prior, rewards, 0.3, factors)


def one_step(model, guide, prompts, objective, **options):
    return quiet(model, guide, prompts, 1, objective=objective, **options).metrics[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_the_reward_of_its_responses(name, two_rewards, small_prior, prompts):
    """The reward over beta and the factor add up to the log likelihood of the same responses."""
    entry = OBJECTIVES[name]
    guide = GUIDES[entry.guide](small_prior, prompts)
    prompts = prompts if entry.max_prompts is None else prompts[[0]]
    record = one_step(two_rewards, guide, prompts, entry(num_particles=8))
    assert record.keys() >= REWARD | RESPONSES
    assert record["reward"] / 0.3 - 0.5 == pytest.approx(record["log_likelihood"], abs=1e-6)
    assert record["reward_std"] > 0
    assert 1 <= record["completions/mean_length"] <= 2
    assert 0 <= record["completions/clipped_ratio"] <= 1
    if not math.isnan(record["elbo"]):
        kl = record["log_likelihood"] - record["elbo"]
        assert record["kl"] == pytest.approx(kl)
        assert record["kl_per_token"] == pytest.approx(kl / record["completions/mean_length"])


@pytest.mark.parametrize("vectorised", [False, True])
def test_particles_one_after_another_give_the_same_metrics(
    vectorised, two_rewards, small_prior, prompts
):
    objective = Trace_ELBO(num_particles=6, vectorize_particles=vectorised, max_plate_nesting=1)
    record = one_step(two_rewards, FineTuned(small_prior), prompts, objective)
    assert record["reward"] / 0.3 - 0.5 == pytest.approx(record["log_likelihood"], abs=1e-6)
    assert record["reward_std"] > 0


def test_rewards_are_those_of_the_draws_beside_rollouts(two_rewards, small_prior, prompts):
    objective = RewardToGo_ELBO(8, baseline="rollouts", num_rollouts=2)
    record = one_step(two_rewards, FineTuned(small_prior), prompts, objective)
    assert record["reward"] / 0.3 - 0.5 == pytest.approx(record["log_likelihood"], abs=1e-6)


def test_numbers_are_those_of_their_definitions(small_prior, prompts):
    """By hand, with unequal weights in the mean and one prompt whose rewards are all equal."""
    space = small_prior.space
    end, word = space.end_ids[0], 1 if space.end_ids[0] != 1 else 2
    pad = space.pad_id
    response = torch.tensor([[[end, pad], [word, end]], [[word, end], [word, word]]])  # [K, N, T]
    share = torch.tensor([[0.25, 0.4], [0.75, 0.6]])
    log_guide = torch.zeros(2, 2)
    values, sites = {"response": response}, {"response": log_guide}
    draws = [Draws(prompts, values, sites, log_guide, share=share)]
    reward = torch.tensor([[0.0, 3.0], [1.0, 3.0]], dtype=torch.float64)
    numbers = response_numbers(draws, matrices(draws).share, space, reward)
    metrics = with_kl({"log_likelihood": 1.5, "elbo": -0.5} | read(numbers))
    length = (0.25 * 1 + 0.75 * 2 + 2) / 2
    variance = 2 * (0.25 * 0.75**2 + 0.75 * 0.25**2)
    assert metrics == pytest.approx(
        {
            "log_likelihood": 1.5,
            "elbo": -0.5,
            "kl": 2.0,
            "kl_per_token": 2.0 / length,
            "completions/mean_length": length,
            "completions/clipped_ratio": 0.3,
            "reward": (0.75 + 3) / 2,
            "reward_std": math.sqrt(variance) / 2,
            "frac_reward_zero_std": 0.5,
        }
    )
    on_policy = matrices([draws[0]._replace(share=None)]).share
    equal = read(response_numbers(draws, on_policy, space, reward))
    assert equal["reward_std"] == pytest.approx(reward.std(0).mean().item())


def test_one_particle_has_no_standard_deviation(two_rewards, small_prior, prompts):
    objective = Trace_ELBO(num_particles=1)
    record = one_step(two_rewards, FineTuned(small_prior), prompts, objective)
    assert math.isnan(record["reward_std"])


def test_rewards_of_other_responses_are_unknown(two_rewards, small_prior, prompts):
    """A run of the model on draws of the prior, say, is not taken for the draws of the step."""
    guide = FineTuned(small_prior)
    response = small_prior(prompts).sample((4,))
    with ModelRuns() as runs, pyro.plate("particles", 4, dim=-2):
        two_rewards(prompts)
    log_guide = guide.distribution(prompts).log_prob(response)
    draws = [Draws(prompts, {"response": response}, {"response": log_guide}, log_guide)]
    assert runs.reward(two_rewards, draws).numel() == 0
    share = matrices(draws).share
    unknown = response_numbers(draws, share, small_prior.space, torch.empty(0))
    assert all(math.isnan(unknown[name]) for name in REWARD)


def test_a_model_without_rewards_has_no_metrics_of_rewards(small_prior, prompts):
    factors = {"topic": contains("good", small_prior)}
    model = soften(AlignmentModel(small_prior, {}, 0.3, factors), 2.0)
    record = one_step(model, FineTuned(small_prior), prompts, OBJECTIVES["leave-one-out"]())
    assert record.keys().isdisjoint(REWARD)
    assert record.keys() >= RESPONSES


def test_a_soft_constraint_is_no_part_of_the_reward(small_prior, prompts):
    reward = TextReward(vader_sentiment, small_prior)
    hard = AlignmentModel(small_prior, reward, 0.3, {"topic": contains("good", small_prior)})
    plain = AlignmentModel(small_prior, reward, 0.3)
    objective = OBJECTIVES["leave-one-out"]
    records = [
        one_step(model, FineTuned(small_prior), prompts, objective(num_particles=16))
        for model in (soften(hard, 3.0), plain)
    ]
    assert records[0]["reward"] == pytest.approx(records[1]["reward"])
    assert records[0]["log_likelihood"] < records[1]["log_likelihood"]


def test_rewards_of_a_repeated_batch_are_kept_also_through_a_resume(
    two_rewards, small_prior, prompts, tmp_path
):
    def run(folder=tmp_path / "killed", **options):
        options |= {"objective": Proximal_ELBO(8, epochs=4), "checkpoint_folder": folder}
        return quiet(two_rewards, FineTuned(small_prior), prompts, 4, **options).metrics

    whole = run(folder=tmp_path / "whole")
    assert all(math.isfinite(record["reward_std"]) for record in whole)
    assert killed_and_resumed(run, 2) == whole[2:]


def test_listed_responses_have_no_lengths(two_rewards, small_prior, prompts):
    """All possible responses are no draws."""
    guide = pyro.infer.config_enumerate(FineTuned(small_prior))
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    record = one_step(two_rewards, guide, prompts, objective)
    assert math.isnan(record["completions/mean_length"])
    assert math.isnan(record["reward"])


@pytest.mark.parametrize("name", ONE_OF_EACH_USE)
def test_micro_batches_have_the_same_metrics(name, two_rewards, small_prior, prompts):
    entry = OBJECTIVES[name]
    prompts = prompts if entry.max_prompts is None else prompts[[0]]
    records = []
    for size in (None, 3):
        guide, objective = GUIDES[entry.guide](small_prior, prompts), entry(num_particles=8)
        records.append(one_step(two_rewards, guide, prompts, objective, micro_batch=size))
    whole, divided = records
    assert divided.keys() == whole.keys()
    for metric in (*REWARD, *RESPONSES):
        assert divided[metric] == pytest.approx(whole[metric], nan_ok=True, abs=1e-6), metric

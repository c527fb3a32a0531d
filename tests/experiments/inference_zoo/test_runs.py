"""Runs of the inference zoo: every algorithm, measurements and refusals."""

import math

import pytest
import torch

from experiments.inference_zoo import runs
from experiments.inference_zoo.__main__ import WITH_GUIDE
from experiments.inference_zoo.report import table
from experiments.inference_zoo.runs import (
    FROM_GUIDE,
    empirical,
    measure_trained,
    run,
    sample,
    train,
)
from experiments.shared import zoo
from experiments.shared.worlds import WORLDS, eight_tokens
from experiments.shared.zoo import Job
from guides import GUIDES, FineTuned
from inference import OBJECTIVES, SAMPLERS, importance_sampling
from inference.samplers import enumerate_posterior
from tests.experiments.diverges import DIVERGES
from tests.inference.objectives.uses import ONE_OF_EACH_USE


@pytest.mark.parametrize(
    "name", [*ONE_OF_EACH_USE, *SAMPLERS, *(name + FROM_GUIDE for name in WITH_GUIDE)]
)
def test_every_kind_of_algorithm_runs(name):
    result = run(Job("eight-tokens", name, 4, 64, 0))
    assert not result.note, result.note
    assert math.isfinite(result.measured["kl_guide_posterior"])
    assert 0 < result.measured["reward"] < 1


@pytest.mark.slow
def test_english_world_is_measured_against_its_exact_samples(monkeypatch):
    small = WORLDS["film-reviews"](256)
    monkeypatch.setattr(zoo, "NUM_SAMPLES", 64)
    monkeypatch.setitem(WORLDS, "film-reviews", lambda: small)
    guide = run(Job("film-reviews", "leave-one-out", 1, 64, 0)).measured
    assert guide["kl_guide_posterior"] > 1
    draws = run(Job("film-reviews", "importance", 16, 64, 0)).measured
    assert draws["log_z_error"] < 1
    assert draws["reward"] > guide["reward"]


def test_training_a_proposal_is_on_the_budget():
    world = eight_tokens()
    posterior = sample(world, Job("eight-tokens", "importance" + FROM_GUIDE, 4, 64, 0))
    assert len(posterior.response) == 2 * 64  # two steps of training drew the other half


def test_refusals_are_results():
    assert "num_samples" in run(Job("eight-tokens", "metropolis-hastings", 0, 64, 0)).note


def test_all_weighted_responses_have_the_probabilities_of_the_posterior():
    world = eight_tokens()
    exact = empirical(world, enumerate_posterior(world.model, world.prompts))
    assert torch.allclose(exact, world.truth.log_posterior[:, 0].exp())
    posterior = importance_sampling(world.model, world.prompts, num_samples=50_000)
    assert (empirical(world, posterior) - exact).abs().sum() < 0.1


def test_more_budget_is_closer():
    world = eight_tokens()
    start = measure_trained(world, FineTuned(world.model.prior))[0]["kl_guide_posterior"]
    short, longer = (
        measure_trained(world, train(world, "trajectory-balance", n, 0))[0]["kl_guide_posterior"]
        for n in (5, 25)
    )
    assert longer < short < start


@pytest.mark.filterwarnings("ignore:fit stopped early")
def test_rows_of_the_zoo_of_algorithms_say_it(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "leave-one-out", DIVERGES)
    result = run(Job("eight-tokens", "leave-one-out", 1, 64, 0))
    assert result.measured
    assert result.note.startswith("its fit: stopped early at step 0: the loss is nan")
    assert "leave-one-out, its fit: stopped early at step 0" in table([result])


@pytest.mark.parametrize(
    ("objective", "num_steps"),
    [
        ("leave-one-out", 3),
        ("contrastive-twist", 3),
        ("proximal", 12),  # four steps on each batch
    ],
)
def test_steps_and_guide_are_those_of_the_objective(monkeypatch, objective, num_steps):
    calls = []

    def record(_, guide, __, **options):
        calls.append((type(guide), options["num_steps"], options["seed"]))

    monkeypatch.setattr(runs, "fit", record)
    monkeypatch.setattr(runs, "record_early_stop", lambda *_: None)
    train(eight_tokens(), objective, 3, seed=0)
    guide = GUIDES[OBJECTIVES[objective].guide].make
    assert calls == [(guide, num_steps, 0)]

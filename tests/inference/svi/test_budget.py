"""Budgets of a fit: steps, fresh responses or seconds; the end of an open fit at its noise."""

import itertools
from functools import partial

import pytest
import torch

from guides import FineTuned
from inference import OBJECTIVES, fit
from inference.objectives.leave_one_out import LeaveOneOut_ELBO
from inference.svi import budget, health
from inference.svi.checkpoint.folder import CheckpointError
from inference.svi.optimizer.fused import FusedOptimizer
from tests.inference.conftest import killed_and_resumed, parameters_of


def run(model, prior, prompts, **options):
    guide = FineTuned(prior)
    options = {"objective": LeaveOneOut_ELBO(num_particles=4), "progress": False} | options
    return guide, fit(model, guide, prompts, **options)


def test_a_number_of_responses_is_as_many_steps(model, small_prior, prompts):
    """Eight responses a step: the same guide as after five steps, and no part of a sixth step."""
    by_steps, _ = run(model, small_prior, prompts, num_steps=5)
    options = {"num_responses": 40, "stop_at_noise": False}
    by_responses, result = run(model, small_prior, prompts, **options)
    assert torch.equal(parameters_of(by_steps), parameters_of(by_responses))
    assert [metrics["num_responses"] for metrics in result.metrics] == [8, 16, 24, 32, 40]
    _, result = run(model, small_prior, prompts, num_responses=47)
    assert len(result.metrics) == 5


def test_steps_on_earlier_responses_cost_none(model, small_prior, prompts):
    """Proximal takes four steps on a batch; the last batch has its four steps too."""
    objective = OBJECTIVES["proximal"](num_particles=4)
    _, result = run(model, small_prior, prompts, num_responses=16, objective=objective)
    assert [metrics["num_responses"] for metrics in result.metrics] == [8] * 4 + [16] * 4
    assert all(metrics["step_size"] > 0 for metrics in result.metrics)


def test_a_fit_by_responses_resumes_bit_for_bit(model, small_prior, prompts, tmp_path):
    whole, expected = run(model, small_prior, prompts, num_responses=48)
    options = {"num_responses": 48, "checkpoint_folder": tmp_path, "checkpoint_every": 2}
    resumed, result = killed_and_resumed(partial(run, model, small_prior, prompts, **options), 3)
    assert torch.equal(parameters_of(whole), parameters_of(resumed))
    assert result.metrics == expected.metrics[-len(result.metrics) :]
    assert (
        run(model, small_prior, prompts, **options, resume=True)[1].metrics == []
    )  # is at its end
    with pytest.raises(CheckpointError, match=r"is of response 48, expected at most num_res"):
        run(model, small_prior, prompts, **options | {"num_responses": 16}, resume=True)


def test_a_fit_by_time_goes_on_with_the_time_left(
    model, small_prior, prompts, tmp_path, monkeypatch
):
    """A clock that moves by a second with each look; looks at the start and after each step."""
    monkeypatch.setattr(budget, "perf_counter", itertools.count().__next__)
    shares = []
    progress = budget.Budget.progress
    monkeypatch.setattr(
        budget.Budget, "progress", lambda *args: shares.append(progress(*args)) or shares[-1]
    )

    options = {"max_seconds": 5, "checkpoint_folder": tmp_path, "checkpoint_every": 1}
    _, result = killed_and_resumed(partial(run, model, small_prior, prompts, **options), step=2)
    assert [metrics["step"] for metrics in result.metrics] == [3, 4, 5]
    assert shares == [0.0, 0.2, 0.4, 0.6, 0.8]
    _, result = run(model, small_prior, prompts, **options, resume=True)
    assert result.metrics == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_steps is None, expected exactly one of num_steps, num_responses, max_seconds"),
        ({"num_steps": 1, "num_responses": 9}, "num_steps and num_responses are given"),
        ({"num_responses": 7}, "num_responses is 7, expected at least 8: the fresh"),
        ({"num_steps": "9", "learning_rate": 1e-3}, "num_steps is '9', expected a whole number"),
        ({"num_responses": "9"}, "num_responses is '9', expected a whole number"),
        ({"learning_rate": 1e-3}, "num_steps is None, expected exactly one of num_steps"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"max_seconds": 9, "learning_rate": 1e-3}, "learning_rate is given without num_steps"),
    ],
)
def test_contradictory_budgets_are_refused(options, message, model, small_prior, prompts):
    with pytest.raises(ValueError, match=message):
        run(model, small_prior, prompts, **options)


@pytest.mark.slow
def test_an_open_fit_ends_when_its_gain_is_below_its_noise(
    model, small_prior, prompts, truth, tmp_path, monkeypatch
):
    """The guide has converged then, and a resume does not go on."""
    monkeypatch.setattr(health, "PATIENCE", 40)
    options = {"objective": LeaveOneOut_ELBO(num_particles=32), "num_responses": 64 * 2000}
    options |= {"checkpoint_folder": tmp_path}
    guide, result = run(model, small_prior, prompts, **options)
    start = truth.kl_guide_posterior(FineTuned(small_prior)).mean().item()
    assert 80 <= len(result.metrics) < 500
    assert "is below its noise" in result.at_noise
    assert truth.kl_guide_posterior(guide).mean().item() < 0.05 * start
    again, result_again = run(
        model, small_prior, prompts, **options | {"objective": LeaveOneOut_ELBO(32)}, resume=True
    )
    assert result_again.metrics == []
    assert result_again.at_noise == result.at_noise
    assert torch.equal(parameters_of(again), parameters_of(guide))


def test_a_fit_that_gains_does_not_end_before_its_budget(model, small_prior, prompts, monkeypatch):
    """Steps so small that the guide is still on its way."""
    monkeypatch.setattr(health, "PATIENCE", 20)
    objective = LeaveOneOut_ELBO(num_particles=256)
    optimizer = FusedOptimizer(torch.optim.SGD, {"lr": 2e-3})
    options = {"objective": objective, "optimizer": optimizer, "num_responses": 512 * 42}
    _, result = run(model, small_prior, prompts, **options)
    assert result.at_noise is None
    assert len(result.metrics) == 42


def test_a_number_of_steps_is_not_cut_short(model, small_prior, prompts, monkeypatch):
    """Unless the fit is asked to end at its noise, here of steps of no size."""
    monkeypatch.setattr(health, "PATIENCE", 8)
    options = {"num_steps": 40, "step_kl": 1e-9, "objective": LeaveOneOut_ELBO(num_particles=2)}
    _, result = run(model, small_prior, prompts, **options)
    assert result.at_noise is None
    assert len(result.metrics) == 40
    _, result = run(model, small_prior, prompts, **options, stop_at_noise=True)
    assert "is below its noise" in result.at_noise
    assert len(result.metrics) < 40

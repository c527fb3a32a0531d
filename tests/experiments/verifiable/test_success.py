"""KL to the posterior of a success: two parts, exact and from draws."""

import math
from types import SimpleNamespace

import pytest
import torch

from experiments.verifiable.report import odds_errors
from experiments.verifiable.success import Draws, bernoulli_kl, draw, estimated, exact
from guides import Fixed
from inference import Enumeration, log_guide_at
from model import Accuracy, AlignmentModel, TextReward

BETA, KS = 0.4, (1, 3)


@pytest.fixture(scope="module")
def questions(prior):
    return prior.encode(["the film was", "the plot was"], {"answer": ["good", "bad"]})


@pytest.fixture(scope="module")
def model(prior, questions):
    return AlignmentModel(prior, TextReward(Accuracy(method="match"), prior), BETA)


@pytest.fixture(scope="module")
def truth(model, questions):
    return Enumeration(model, questions)


@pytest.fixture(scope="module")
def success(model, truth, questions):
    return model.reward(questions, truth.support)


@pytest.fixture(scope="module")
def other(truth):
    """log q of a distribution unlike prior and posterior."""
    torch.manual_seed(0)
    return (truth.log_prior + torch.randn_like(truth.log_prior)).log_softmax(0)


def test_parts_add_up_to_the_kl(truth, success, other):
    for log_prob in (truth.log_prior, truth.log_posterior, other):
        numbers, error = exact(log_prob, truth, success, KS)
        assert error < 1e-10
        assert numbers.lost.value > -1e-12
    assert numbers.lost.value > 0.1
    assert exact(truth.log_prior, truth, success, KS)[0].lost.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("beta", [0.02, 1e-4])
def test_at_a_small_beta_the_parts_are_those_of_the_estimates(
    prior, model, questions, success, other, beta
):
    """Failures of probability exp(-1/beta), which 1 - rate rounds to none."""
    torch.manual_seed(0)
    truth = Enumeration(AlignmentModel(prior, model.rewards, beta), questions)
    numbers, error = exact(other, truth, success, KS)
    assert error < 1e-12 / beta
    draws = (drawn(each, truth, success, 4000) for each in (other, truth.log_prior))
    estimates = estimated(*draws, beta, KS)
    for field in ("kl", "bernoulli", "lost"):
        difference = getattr(estimates, field).value - getattr(numbers, field).value
        assert abs(difference) < 4 * getattr(estimates, field).standard_error, field


def test_posterior_shifts_the_log_odds_and_keeps_the_ratios(truth, success, other):
    assert max(odds_errors(truth, success, BETA)) < 1e-10
    assert min(odds_errors(truth, success, 2 * BETA)) > 1
    moved = SimpleNamespace(log_prior=truth.log_prior, log_posterior=other)
    assert min(odds_errors(moved, success, BETA)) > 0.1


def test_kl_of_rates_is_that_of_two_outcomes():
    rate, best = torch.tensor([0.3, 0.0, 1.0]), torch.tensor([0.6, 0.6, 0.6])
    expected = [
        0.3 * math.log(0.5) + 0.7 * math.log(0.7 / 0.4),
        math.log(1 / 0.4),
        math.log(1 / 0.6),
    ]
    assert bernoulli_kl(rate, best).tolist() == pytest.approx(expected, abs=1e-6)


def drawn(log_prob, truth, success, num_draws):
    """Independent draws of a listed distribution."""
    index = torch.multinomial(log_prob.exp().T, num_draws, replacement=True).T
    log_ratio = (log_prob - truth.log_prior).gather(0, index)
    return Draws(success.gather(0, index), log_ratio)


def test_estimates_have_the_exact_mean_and_their_standard_error(truth, success, other):
    """Means over many runs: within the errors, whose size is the spread of the runs."""
    torch.manual_seed(1)
    numbers, _ = exact(other, truth, success, KS)
    runs = []
    for _ in range(60):
        draws = (drawn(each, truth, success, 4000) for each in (other, truth.log_prior))
        runs.append(estimated(*draws, BETA, KS))
    for field in ("rate", "kl", "bernoulli", "lost"):
        values = torch.tensor([getattr(run, field).value for run in runs], dtype=torch.float64)
        errors = torch.tensor([getattr(run, field).standard_error for run in runs])
        expected = getattr(numbers, field).value
        assert abs(values.mean().item() - expected) < 4 * values.std().item() / 60**0.5, field
        assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.35), field
    for run in runs:
        assert run.kl.value == pytest.approx(run.bernoulli.value + run.lost.value, abs=1e-9)


def test_draws_are_judged_and_scored(prior, model, questions):
    torch.manual_seed(0)
    draws = draw(Fixed(prior), model, questions, 70, chunk=32)
    assert draws.success.shape == draws.log_ratio.shape == (70, 2)
    assert draws.log_ratio.abs().max() < 1e-12
    assert 0 < draws.success.mean() < 1
    response = prior(questions).sample((3,))
    assert log_guide_at(Fixed(prior), questions, response).shape == (3, 2)


def test_prompt_that_the_prior_never_answers_has_no_kl():
    generator = torch.Generator().manual_seed(0)
    right = (torch.rand(50, 2, generator=generator) < 0.5).double()
    log_ratio = torch.zeros(50, 2, dtype=torch.float64)
    never = right.clone()
    never[:, 1] = 0.0
    both = estimated(Draws(right, log_ratio), Draws(never, log_ratio), BETA, KS)
    one = (Draws(part[:, :1], log_ratio[:, :1]) for part in (right, never))
    assert both.kl == estimated(*one, BETA, KS).kl
    assert both.rate.value == right.mean().item()
    nothing = estimated(Draws(right, log_ratio), Draws(0 * right, log_ratio), BETA, KS)
    assert math.isnan(nothing.kl.value)

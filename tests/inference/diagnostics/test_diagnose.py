"""Estimates within five standard errors of the truth, and standard errors checked by repetition."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch

from guides import Fixed, Tabular
from inference import (
    Diagnostics,
    Enumeration,
    PriorSample,
    diagnose,
    joint_at,
    log_guide_at,
    sample_prior,
)
from inference.diagnostics.diversity import distinct_n
from inference.diagnostics.mixture_sample import MixtureSample
from inference.diagnostics.prior_alone import reaches
from inference.estimate import Estimate
from inference.importance_weights import WeightQuality
from inference.samplers.rejection import LooseBoundError
from model import (
    AlignmentModel,
    ResponseDistribution,
    TextReward,
    TokenReward,
    grammar_prior,
    vader_sentiment,
)
from tests.inference.conftest import moved_guide


def bounded(model, guide, prompts, num_samples, num_prior_draws):
    """Diagnostics with accepted prior draws, if the model has a bound."""
    draws = {"num_samples": num_samples, "num_prior_draws": num_prior_draws}
    bound = model.log_likelihood_bound(prompts)
    return diagnose(model, guide, prompts, **draws, log_likelihood_bound=bound)


@pytest.fixture
def measured(model, guide, prompts):
    return bounded(model, guide, prompts, 1500, 4000)


def within(estimate, truth, k=5.0):
    return abs(estimate.value - truth.mean().item()) < k * estimate.standard_error


def test_estimates_are_within_their_errors(measured: Diagnostics, truth: Enumeration, guide):
    log_guide = truth.log_guide(guide)
    assert within(measured.elbo, truth.elbo(guide))
    assert within(measured.log_likelihood, truth.expected_log_likelihood(guide))
    assert within(measured.kl_guide_prior, truth.kl_guide_prior(guide))
    assert within(measured.entropy, -(log_guide.exp() * log_guide).sum(0))
    assert within(measured.log_z, truth.log_z)
    assert within(measured.kl_guide_posterior, truth.kl_guide_posterior(guide))
    assert within(measured.kl_posterior_guide, truth.kl_posterior_guide(guide))
    posterior = truth.log_posterior.exp()
    assert within(measured.posterior_log_likelihood, (posterior * truth.log_likelihood).sum(0))
    kl = (posterior * (truth.log_posterior - truth.log_prior)).sum(0)
    assert within(measured.kl_posterior_prior, kl)
    assert within(measured.posterior_log_ratio, kl - truth.kl_posterior_guide(guide))
    assert within(measured.prior_alone.log_z, truth.log_z)
    assert within(measured.prior_alone.kl_guide_posterior, truth.kl_guide_posterior(guide))
    assert within(measured.prior_alone.kl_posterior_guide, truth.kl_posterior_guide(guide))
    bound = measured.log_z_bound
    assert measured.elbo.value < bound.value < truth.log_z.mean() + 5 * bound.standard_error
    acceptance = (truth.log_z.exp() * math.exp(-1 / 0.3)).mean().item()
    assert measured.acceptance == pytest.approx(acceptance, rel=0.1)


def test_every_number_follows_the_definition(prior, prompts, monkeypatch):
    """Values and standard errors on the same draws, to the last digits; some draws end early."""
    reward, guide = TextReward(vader_sentiment, prior, upper_bound=1.0), moved_guide(prior, 0.02)
    model = AlignmentModel(prior, reward, beta=0.3)
    sample, drawn = ResponseDistribution.sample_and_log_prob, []

    def recorded(self, sample_shape=()):
        response, log_prob = sample(self, sample_shape)
        drawn.append(response)
        return response, log_prob

    bound = model.log_likelihood_bound(prompts)
    draws = sample_prior(model, prompts, 200, log_likelihood_bound=bound)
    monkeypatch.setattr(ResponseDistribution, "sample_and_log_prob", recorded)
    measured = diagnose(model, guide, prompts, num_samples=40, prior_sample=draws, chunk=16)
    response = torch.cat(drawn)
    joint = joint_at(model, prompts, response)
    log_guide = log_guide_at(guide, prompts, response).detach()
    log_weight = joint.log_prior + joint.log_likelihood - log_guide
    means = {
        "elbo": log_weight,
        "log_likelihood": joint.log_likelihood,
        "kl_guide_prior": log_guide - joint.log_prior,
        "entropy": -log_guide,
    }
    for name, values in means.items():
        error = values.std(0).square().sum().sqrt().item() / math.sqrt(40) / 2  # of two prompts
        expected = (values.mean().item(), error)
        assert getattr(measured, name) == pytest.approx(expected, rel=1e-9), name
    bound = (log_weight.logsumexp(0) - math.log(40)).mean().item()
    assert measured.log_z_bound.value == pytest.approx(bound, rel=1e-9)
    log_z = draws.log_likelihood.exp().mean(0).log().mean().item()
    alone = measured.prior_alone
    assert alone.log_z.value == pytest.approx(log_z, rel=1e-9)
    gap = alone.kl_guide_posterior
    assert gap.value == pytest.approx(log_z - log_weight.mean().item(), rel=1e-9)
    assert gap.standard_error == pytest.approx(
        math.hypot(alone.log_z.standard_error, measured.elbo.standard_error)
    )
    assert measured.acceptance == draws.accepted.double().mean().item()
    is_token = prior.space.is_token(response)
    assert measured.distinct_2 == distinct_n(response, is_token, 2)
    assert measured.distinct_2 != distinct_n(response, torch.ones_like(is_token), 2)
    exact = []
    for n in range(2):
        accepted = draws.response[draws.accepted[:, n]][:, [n]]
        joint = joint_at(model, prompts[[n]], accepted)
        log_ratio = joint.log_joint - log_guide_at(guide, prompts[[n]], accepted).detach()
        exact.append(log_ratio.mean().item() - draws.log_likelihood[:, n].exp().mean().log().item())
    assert alone.kl_posterior_guide.value == pytest.approx(sum(exact) / 2, rel=1e-9)
    share = torch.ones(200, 2, dtype=torch.float64, requires_grad=True)  # of each draw
    joint = joint_at(model, prompts, draws.response)
    log_ratio = joint.log_joint - log_guide_at(guide, prompts, draws.response).detach()
    accepted = share * draws.accepted
    log_z = ((share * joint.log_likelihood.exp()).sum(0) / share.sum(0)).log()
    ((accepted * log_ratio).sum(0) / accepted.sum(0) - log_z).sum().backward()
    error = (share.grad.square().sum() * 200 / 199).sqrt().item() / 2
    assert alone.kl_posterior_guide.standard_error == pytest.approx(error, rel=1e-9)
    every = joint_at(model, prompts, torch.cat([draws.response, response]))
    log_q = log_guide_at(guide, prompts, torch.cat([draws.response, response])).detach()
    mixture = MixtureSample(every.log_prior, every.log_likelihood, log_q, num_prior_draws=200)
    for quality, weights in (
        (measured.weights, mixture.log_weight),
        (measured.guide_weights, log_weight.double()),
    ):
        assert quality[:-1] == pytest.approx(WeightQuality.of(weights)[:-1], rel=1e-9)
    for name in ("log_z", "kl_guide_posterior", "kl_posterior_guide", "kl_posterior_prior"):
        assert getattr(measured, name) == pytest.approx(getattr(mixture, name)(), rel=1e-9), name


def test_number_of_draws_is_the_argument(model, guide, prompts, monkeypatch):
    """Draws of guide and prior come in chunks, of which the last is smaller."""
    sample, sizes = ResponseDistribution._draw, []

    def counted(self, sample_shape):
        sizes.append(tuple(sample_shape))
        return sample(self, sample_shape)

    monkeypatch.setattr(ResponseDistribution, "_draw", counted)
    diagnose(model, guide, prompts, num_samples=10, num_prior_draws=7, chunk=4)
    drawn = filter(None, sizes)  # a program that is run for its distribution draws once
    assert sorted(drawn) == [(2,), (3,), (4,), (4,), (4,)]


@pytest.mark.slow
def test_standard_errors_are_the_spread_over_repetitions(model, guide, prompts):
    """Forty repetitions: the deviation of each estimate equals the mean standard error."""
    names = ("elbo", "log_z", "kl_guide_posterior", "kl_posterior_guide")
    runs = [bounded(model, guide, prompts, 200, 600) for _ in range(40)]
    for name in names:
        values, errors = zip(*(getattr(run, name) for run in runs), strict=True)
        near = {"rel": 5 * (2 * 40) ** -0.5}
        assert np.std(values, ddof=1) == pytest.approx(np.mean(errors), **near), name


@pytest.fixture(scope="module")
def bounded_draws(model, prompts):
    """Prior draws, of which those of high likelihood are accepted."""
    pyro.set_rng_seed(0)
    bound = model.log_likelihood_bound(prompts)
    return sample_prior(model, prompts, 8_000, log_likelihood_bound=bound, chunk=4000)


def test_accepted_draws_are_from_the_posterior(bounded_draws, prompts, truth):
    """Chi-square of accepted responses against p*, over responses expected at least 5 times."""
    draws = bounded_draws
    for n in range(len(prompts)):
        accepted = draws.response[draws.accepted[:, n], n]
        counts = (accepted[:, None] == truth.support[:, n]).all(-1).sum(0).double()
        expected = truth.log_posterior[:, n].exp() * len(accepted)
        common = expected >= 5
        statistic = ((counts - expected)[common].square() / expected[common]).sum()
        freedom = int(common.sum())
        assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_bound_that_is_too_low_is_an_error(model, prompts):
    with pytest.raises(LooseBoundError, match=r"above the bound of 0\.1"):
        sample_prior(model, prompts, 500, log_likelihood_bound=0.1)


def test_without_a_bound_nothing_is_accepted(small_prior, guide, prompts):
    unbounded = TextReward(lambda texts: vader_sentiment(texts), small_prior)
    model = AlignmentModel(small_prior, unbounded, beta=0.3)
    measured = bounded(model, guide, prompts, 100, 100)
    assert measured.prior_alone.kl_posterior_guide is None
    assert measured.acceptance is None
    assert math.isfinite(measured.kl_guide_posterior.value)
    truth = Enumeration(model, prompts)
    assert within(measured.kl_posterior_guide, truth.kl_posterior_guide(guide))


def test_impossible_responses_are_borne(small_prior, guide, prompts):
    reward = TokenReward(
        lambda response, _: torch.where(response[..., 0] == 7, 0.0, -math.inf),
        small_prior,
        upper_bound=0.0,
    )
    model, prompts = AlignmentModel(small_prior, reward, beta=1.0), prompts[:1]
    measured = diagnose(
        model, guide, prompts, num_samples=200, num_prior_draws=4000, log_likelihood_bound=0.0
    )
    truth = Enumeration(model, prompts)
    assert within(measured.log_z, truth.log_z)
    assert measured.elbo.value == -math.inf
    assert measured.kl_guide_posterior.value == math.inf
    assert within(measured.kl_posterior_guide, truth.kl_posterior_guide(guide))


def test_without_a_possible_draw_of_the_prior_log_z_is_from_the_guide(small_prior, guide, prompts):
    """KL(q || p*) is infinite if the guide draws impossible responses, as the prior does."""
    reward = TokenReward(
        lambda response, _: torch.where(response[..., 0] == 7, 0.0, -math.inf), small_prior
    )
    model, knowing = AlignmentModel(small_prior, reward, beta=1.0), Tabular(small_prior, prompts)
    with torch.no_grad():
        knowing.table[:, 0, 7] = 1e3
    nothing = PriorSample.of_draws(torch.full((4, 2, 2), 5), torch.full((4, 2), -math.inf))
    options = {"num_samples": 8, "prior_sample": nothing}
    blind = diagnose(model, guide, prompts, **options)
    assert blind.kl_guide_posterior.value == blind.prior_alone.kl_guide_posterior.value == math.inf
    measured = diagnose(model, knowing, prompts, **options)
    assert math.isfinite(measured.elbo.value)
    assert math.isfinite(measured.kl_guide_posterior.value)
    assert measured.prior_alone.log_z.value == -math.inf
    assert math.isnan(measured.prior_alone.kl_guide_posterior.value)
    names = ("log_z", "kl_guide_posterior", "kl_posterior_guide")
    assert all(map(measured.warnings_of, names))


def test_levels_of_a_reward_count_and_so_does_its_bound(small_prior, prompts):
    """The top of three levels is known where a draw reaches the bound."""
    prompts, guide = prompts[:1], Fixed(small_prior)
    reward = TokenReward(lambda ids, _: 2.0 * (ids[..., 0] % 3), small_prior, upper_bound=4.0)
    model = AlignmentModel(small_prior, reward, beta=1.0)
    for bound, is_reached in ((None, True), (9.0, False)):
        measured = diagnose(model, guide, prompts, log_likelihood_bound=bound)
        assert measured.weights.has_known_top == measured.guide_weights.has_known_top == is_reached
    assert reaches(torch.tensor([[4.0, 5.0]]), 5.0)
    assert not reaches(torch.tensor([[3.0, 5.0]]), 5.0)
    reward = TokenReward(lambda ids, _: (ids[..., 0] % 2).double(), small_prior)
    model = AlignmentModel(small_prior, reward, beta=1.0)
    share, error = diagnose(model, guide, prompts, num_samples=8, num_prior_draws=8).log_likelihood
    laplace = (8 * share + 1) / 10
    assert error == pytest.approx(math.sqrt(laplace * (1 - laplace) / 8))


def test_a_divergence_clearly_below_0_is_unreliable(measured):
    for value, is_honest in ((-2.5, True), (-3.5, False)):
        low = replace(measured, kl_posterior_prior=Estimate(value, 1.0))
        few = measured.warnings_of("kl_posterior_prior")
        assert (low.warnings_of("kl_posterior_prior") == few) == is_honest
        assert (low.warnings == measured.warnings) == is_honest
    few = [measured.prior_alone._replace(num_accepted=number) for number in (29, 30)]
    assert [len(alone.warnings_of("kl_posterior_guide")) for alone in few] == [1, 0]


def test_responses_of_one_token_have_no_pairs():
    assert distinct_n(torch.zeros(3, 1, 1), torch.ones(3, 1, 1, dtype=torch.bool), 2) == 0
    prior = grammar_prior(max_new_tokens=1)
    prompts = prior.encode(["the film was"])
    measured = diagnose(
        AlignmentModel(prior, {}, 1.0), Fixed(prior), prompts, num_samples=8, num_prior_draws=8
    )
    assert measured.distinct_2 == 0


def test_distinct_n_counts_runs_of_tokens_and_no_padding():
    response = torch.tensor([[[1, 2, 3, 0]], [[1, 2, 0, 0]]])
    is_token = torch.tensor([[[True, True, True, True]], [[True, True, True, False]]])
    assert distinct_n(response, is_token, 2) == pytest.approx(4 / 5)  # 12 23 30 | 12 20
    assert distinct_n(response, is_token, 4) == 1
    assert distinct_n(response[1:], is_token[1:], 4) == 0


@pytest.mark.parametrize(("num_prompts", "least"), [(1, 30), (2, 16)])
def test_means_of_few_guide_draws_are_doubtful(model, guide, prompts, num_prompts, least):
    """By the degrees of freedom of their error over all prompts."""
    few = f"{least - 1} draws of the guide, fewer than {least}"
    for num_samples in (least - 1, least):
        some, is_few = prompts[list(range(num_prompts))], num_samples < least
        measured = diagnose(model, guide, some, num_samples=num_samples, num_prior_draws=300)
        assert measured.warnings_of("elbo") == [few] * is_few
        assert (f"; {few}" in measured.summary()["KL(q || p0)"]) == is_few

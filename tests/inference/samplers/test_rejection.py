"""Rejection and quasi-rejection: exact draws and acceptance, published figures."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import Enumeration
from inference.samplers.importance import importance_sampling
from inference.samplers.posterior import NoSupportError
from inference.samplers.quasi_rejection import quasi_rejection, quasi_rejection_sampling
from inference.samplers.rejection import (
    LooseBoundError,
    check_bound,
    check_log_bound,
    rejection_sampling,
)
from model import AlignmentModel
from tests.inference.samplers.goodness_of_fit import counts, graded_model, misfit

SAMPLERS = [rejection_sampling, quasi_rejection_sampling]


@pytest.fixture(scope="module")
def truth_of_verdicts(small_prior, verdicts):
    return Enumeration(graded_model(small_prior), verdicts)


def accepted_counts(posterior, support):
    """Counts of the accepted responses, `[S, N]`."""
    accepted = posterior.log_weight == 0
    assert (accepted | posterior.log_weight.isneginf()).all()
    of = [
        counts(posterior.response[accepted[:, i], i : i + 1], support[:, i : i + 1])
        for i in range(support.shape[1])
    ]
    return torch.cat(of, 1)


@pytest.mark.parametrize("guided", [False, True])
def test_accepted_draws_are_the_posteriors(small_prior, verdicts, truth_of_verdicts, guide, guided):
    truth, options = truth_of_verdicts, {}
    log_bound = torch.tensor([2.0, 2.0]).double()
    if guided:
        log_bound = (truth.log_joint - truth.log_guide(guide)).amax(0)
        options = {"guide": guide, "log_bound": log_bound}
    posterior = rejection_sampling(
        graded_model(small_prior), verdicts, num_samples=16384, chunk=4096, **options
    )
    drawn = accepted_counts(posterior, truth.support)
    assert (misfit(drawn, truth.log_posterior.exp()) < 5).all()
    proposal = truth.log_guide(guide) if guided else truth.log_prior
    assert (misfit(drawn, proposal.exp()) > 10).all()
    exact = (truth.log_z - log_bound).exp()
    error = (exact * (1 - exact) / 16384).sqrt()
    assert ((posterior.diagnostics["acceptance"] - exact).abs() < 5 * error).all()
    assert (drawn.sum(0) / 16384 == posterior.diagnostics["acceptance"]).all()


def test_quasi_rejection_has_the_stated_distribution(
    small_prior, verdicts, truth_of_verdicts, guide
):
    truth = truth_of_verdicts
    log_guide = truth.log_guide(guide)
    # far too low, another for each prompt
    log_bound = truth.log_z + torch.tensor([0.0, -0.3]).double()
    exact = quasi_rejection(truth.log_joint, log_guide, log_bound)
    expected = torch.minimum(truth.log_joint, log_bound + log_guide).softmax(0)
    options = {"num_samples": 16_384, "chunk": 4096, "log_bound": log_bound}
    model = graded_model(small_prior)
    posterior = quasi_rejection_sampling(model, verdicts, guide=guide, **options)
    drawn = accepted_counts(posterior, truth.support)
    assert (misfit(drawn, expected) < 5).all()
    assert (misfit(drawn, truth.log_posterior.exp()) > 10).all()
    assert (exact.total_variation > 0.05).all()
    for name, value in exact._asdict().items():
        assert torch.allclose(posterior.diagnostics[name], value, rtol=0.1), name


def test_quasi_rejection_sets_its_bound_by_a_pilot(small_prior, verdicts, truth_of_verdicts):
    """The 0.99 quantile of a distribution with levels is a known level."""
    pyro.set_rng_seed(0)
    options = {"num_samples": 8000, "chunk": 4000}
    posterior = quasi_rejection_sampling(graded_model(small_prior), verdicts, **options)
    assert posterior.response.shape == (6000, 2, 2)
    level, order = truth_of_verdicts.log_likelihood.sort(0)
    cdf = truth_of_verdicts.log_prior.exp().gather(0, order).cumsum(0)
    level = level.gather(0, (cdf < 0.99).sum(0, keepdim=True))[0]
    assert torch.equal(posterior.diagnostics["log_bound"], level)
    pyro.set_rng_seed(0)
    everything = importance_sampling(graded_model(small_prior), verdicts, **options)
    assert torch.equal(posterior.log_z, everything.log_z)  # the pilot's draws count here


def test_published_figures():
    """Target Poisson(11), proposal Poisson(10). The published KL is KL(p || p_b).

    KL(p_b || p) is .0177 at b = 1.
    """
    log_p, log_q = poisson_table(11), poisson_table(10)
    assert 0.5 * (log_p.exp() - log_q.exp()).abs().sum().item() == pytest.approx(0.1232, abs=5e-5)
    published = {
        1: (0.8769, 0.0749, 0.01989),
        2: (0.4982, 0.00353, 4.87e-4),
        3: (0.3333, 1.55e-4, 1.8e-5),
    }
    for b, (acceptance, total_variation, kl) in published.items():
        figures = quasi_rejection(log_p, log_q, math.log(b))
        # .87685, rounded twice
        assert figures.acceptance.item() == pytest.approx(acceptance, abs=6e-5)
        assert figures.total_variation.item() == pytest.approx(total_variation, rel=2e-3)
        assert figures.kl.item() == pytest.approx(kl, rel=0.02)
        assert figures.total_variation <= figures.total_variation_bound
        z_b = b * figures.acceptance.item()
        assert figures.total_variation_bound.item() == pytest.approx(1 - z_b, abs=1e-12)
        scaled = quasi_rejection(log_p + 7, log_q, math.log(b) + 7)  # P need not be normalised
        assert all(torch.allclose(x, y) for x, y in zip(figures, scaled, strict=True))


def poisson_table(rate, size=80):
    return dist.Poisson(torch.tensor(float(rate), dtype=torch.float64)).log_prob(
        torch.arange(size).double()
    )


def test_pilot_in_which_nearly_nothing_is_possible(small_prior, prompts):
    """-inf at the 0.99 quantile: the bound is then the highest weight that the pilot saw."""
    alone = small_prior.encode(["the film was"])
    truth = Enumeration(graded_model(small_prior), alone)
    rare = truth.support[(truth.log_prior[:, 0] - math.log(0.003)).abs().argmin(), 0]

    def model(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            x = pyro.sample("response", small_prior(prompts))
            pyro.factor("reward", torch.where((x == rare).all(-1), 0.7, -math.inf).double())

    posterior = quasi_rejection_sampling(model, alone, num_samples=16384, chunk=4096)
    assert posterior.diagnostics["log_bound"].item() == pytest.approx(0.7)
    assert (posterior.response[posterior.log_weight == 0] == rare).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_error_without_acceptance_names_the_rate(small_prior, prompts, sampler):
    match = r"none of 16 draws for 'the film was' was accepted: .* one in exp\((99|100|101)"
    with pytest.raises(NoSupportError, match=match):
        sampler(graded_model(small_prior), prompts, num_samples=16, log_bound=100.0)


def test_a_missing_bound_says_why(small_prior, model, prompts, guide):
    unbounded = AlignmentModel(
        small_prior, lambda prompts, response: torch.zeros(response.shape[:-1]), beta=1.0
    )
    for program, proposal, why in (
        (model, guide, "a guide proposes"),
        (lambda prompts: model(prompts), None, "the model is a function"),
        (unbounded, None, "`upper_bound`"),
    ):
        with pytest.raises(ValueError, match=f"{why}.*quasi_rejection_sampling.*pass `log_bound`"):
            rejection_sampling(program, prompts, guide=proposal)


def test_a_loose_bound_is_an_error(small_prior, verdicts):
    match = r"'the film was' has log weight 1.*above the bound of 0\.9"
    with pytest.raises(LooseBoundError, match=match):
        rejection_sampling(
            graded_model(small_prior), verdicts, num_samples=500, log_bound=torch.tensor([0.9, 2.0])
        )
    quasi_rejection_sampling(graded_model(small_prior), verdicts, num_samples=500, log_bound=0.9)
    check_bound(torch.tensor([[1e-7]]), 0.0, ["by rounding"])
    with pytest.raises(ValueError, match="is inf, expected finite numbers"):
        check_log_bound(torch.tensor([1.0, math.inf]), 2)


def test_a_pilot_needs_draws_after_it(model, prompts):
    with pytest.raises(ValueError, match="num_samples = 1 leaves no draw after the pilot"):
        quasi_rejection_sampling(model, prompts, num_samples=1)

"""Metropolis-Hastings: the independent last states of thousands of chains, and the posterior."""

import importlib
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from inference import Enumeration
from inference.samplers.metropolis_hastings import ResponseKernel, metropolis_hastings, mixing
from inference.samplers.posterior import NoSupportError
from tests.inference.samplers.goodness_of_fit import (
    counts,
    graded_model,
    misfit,
    nothing_for_the_second,
)

# the function goes by the same name
module = importlib.import_module("inference.samplers.metropolis_hastings")
_move = module.suffix_move


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_chains_converge_to_the_posterior(small_prior, verdicts, guide, whole, guided):
    """Independent chains, each after 13 moves: chi-square on their last states."""
    model = graded_model(small_prior, beta=1.5)
    kernel = ResponseKernel(model, guide if guided else None, num_chains=800, whole=whole)
    mcmc = MCMC(kernel, num_samples=1, warmup_steps=12, disable_progbar=True)
    mcmc.run(verdicts)
    truth = Enumeration(model, verdicts)
    drawn = counts(mcmc.get_samples()["response"][0], truth.support)
    assert (misfit(drawn, truth.log_posterior.exp()) < 5).all()
    for wrong in (truth.log_prior, truth.log_guide(guide)):
        assert (misfit(drawn, wrong.exp()) > 10).all()


@pytest.mark.parametrize("whole", [False, True])
def test_sampler_is_consistent_and_diagnoses_mixing(small_prior, verdicts, whole):
    model = graded_model(small_prior, beta=1.5)
    posterior = metropolis_hastings(
        model, verdicts, num_samples=4800, num_chains=32, warmup=0.1, whole=whole
    )
    assert posterior.response.shape == (135 * 32, 2, 2)
    assert (posterior.log_weight == 0).all()
    assert posterior.log_z is None
    truth = Enumeration(model, verdicts)
    exact = (truth.log_posterior.exp() * truth.log_likelihood).sum(0)
    value = model.reward(verdicts, posterior.response) / 1.5
    size = posterior.diagnostics["effective_sample_size"]
    variance = (truth.log_posterior.exp() * (truth.log_likelihood - exact).square()).sum(0)
    assert ((posterior.mean(value) - exact).abs() < 5 * (variance / size).sqrt()).all()
    assert ((size > 500) & (size < 135 * 32)).all()
    # means of half chains differ like means of size / halves independent draws, to five errors
    halves = 2 * 32
    difference = halves / size * (1 + 5 * (2 / (halves - 1)) ** 0.5)
    assert ((posterior.diagnostics["r_hat"].square() - 1).abs() < difference).all()
    acceptance = posterior.diagnostics["acceptance"]
    assert ((acceptance > 0.3) & (acceptance < 1)).all()


def test_acceptance_of_whole_moves_is_exact(small_prior, prompts):
    """At stationarity, E min(1, w(x')/w(x)) over x ~ p*, x' ~ p0 is a double sum.

    Near 1 for the second prompt.
    """
    model = graded_model(small_prior)
    truth = Enumeration(model, prompts)
    posterior = metropolis_hastings(model, prompts, num_samples=20000, num_chains=1000, whole=True)
    # [x, x', N]
    ratio = (truth.log_likelihood[None] - truth.log_likelihood[:, None]).clamp(max=0).exp()
    exact = torch.einsum("xn,yn,xyn->n", truth.log_posterior.exp(), truth.log_prior.exp(), ratio)
    assert torch.allclose(posterior.diagnostics["acceptance"], exact, atol=0.02)


def test_budget_is_chains_times_steps(model, prompts, monkeypatch):
    moves = []
    move = lambda *args, **options: moves.append(args) or _move(*args, **options)  # noqa: E731
    monkeypatch.setattr(module, "suffix_move", move)
    posterior = metropolis_hastings(model, prompts, num_samples=100, num_chains=8, warmup=0.25)
    assert len(moves) == 11  # 12 steps of 8 chains, of which the start is one
    assert posterior.response.shape == (9 * 8, 2, 2)  # a quarter thrown away


def test_kernel_is_a_kernel_of_pyro(small_prior, model, prompts, guide):
    kernel = ResponseKernel(model, guide, num_chains=5)
    mcmc = MCMC(kernel, num_samples=7, warmup_steps=3, disable_progbar=True)
    mcmc.run(prompts)
    response = mcmc.get_samples()["response"]
    assert response.shape == (7, 5, 2, 2)
    assert response.dtype == torch.long
    assert small_prior(prompts).space.contains(response).all()
    assert set(kernel.diagnostics()) == {"acceptance"}
    mcmc.run(prompts[:1])  # again, for other prompts
    assert mcmc.get_samples()["response"].shape == (7, 5, 1, 2)


def test_kernel_starts_at_the_initial_parameters(model, prompts):
    """Start at a response with a reward far above all others: every move is refused."""
    start = torch.tensor([7, 0]).expand(4, 2, 2)

    def steep(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            x = pyro.sample("response", model.prior(prompts))
            pyro.factor("reward", 1000.0 * (x == start[0]).all(-1))

    kernel = ResponseKernel(steep, num_chains=4, whole=True)
    options = {"warmup_steps": 0, "initial_params": {"response": start}, "disable_progbar": True}
    mcmc = MCMC(kernel, num_samples=3, **options)
    mcmc.run(prompts)
    assert (mcmc.get_samples()["response"] == start).all()


def test_acceptance_counts_the_kept_moves_only(model, prompts, monkeypatch):
    """All moves of the warm-up are accepted, and of the three others the first alone."""
    accept = iter([True] * 5 + [True, False, False])

    def forced(_distribution, response, log_weight, _score, *, whole):
        return response, log_weight, torch.full(log_weight.shape, next(accept))

    monkeypatch.setattr(module, "suffix_move", forced)
    kernel = ResponseKernel(model, num_chains=4)
    MCMC(kernel, num_samples=3, warmup_steps=5, disable_progbar=True).run(prompts)
    assert kernel.diagnostics()["acceptance"].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_start_that_is_hard_to_find_is_taken_from_another_chain(small_prior):
    """About one draw in 50 is possible: some of 32 chains find one, and the others join them."""
    alone = small_prior.encode(["the film was"])
    truth = Enumeration(graded_model(small_prior), alone)
    rare = truth.support[(truth.log_prior[:, 0] - math.log(0.02)).abs().argmin(), 0]

    def model(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            x = pyro.sample("response", small_prior(prompts))
            pyro.factor("reward", torch.where((x == rare).all(-1), 0.0, -math.inf).double())

    posterior = metropolis_hastings(model, alone, num_samples=32 * 4)
    assert (posterior.response == rare).all()
    # the log likelihood never varies: no diagnosis is possible
    assert posterior.diagnostics["r_hat"].isnan().all()


def test_no_support_names_the_prompt(small_prior, prompts, guide):
    fault = r"all 32 responses drawn for 'the' are impossible .* 10 redraws"
    for proposal in (None, guide):
        with pytest.raises(NoSupportError, match=fault):
            metropolis_hastings(nothing_for_the_second(small_prior), prompts, guide=proposal)


def test_a_proposal_without_suffixes_is_refused(prompts):
    def model(prompts):
        return pyro.sample("response", dist.Poisson(torch.ones(len(prompts), 1)).to_event(1))

    with pytest.raises(TypeError, match=r"is a Independent, expected a ResponseDistribution"):
        metropolis_hastings(model, prompts)


def test_no_step_to_keep_is_an_error(model, prompts):
    fault = r"num_samples = 32, .* warmup = 0\.5 .* no step is left to keep"
    with pytest.raises(ValueError, match=fault):
        metropolis_hastings(model, prompts, num_samples=32)


def test_mixing_by_prompt():
    """Independent values; chains that disagree; a constant; each prompt as if alone."""
    good = torch.randn(200, 8).double()
    apart = good + torch.arange(8)
    stuck = torch.arange(8.0).double().expand(200, 8)
    figures = mixing(torch.stack([good, apart, torch.full((200, 8), 0.1).double(), stuck], -1))
    assert figures["r_hat"][0].item() == pytest.approx(1, abs=0.02)
    assert 800 < figures["effective_sample_size"][0] < 3000
    assert figures["r_hat"][1] > 1.5
    assert figures["effective_sample_size"][1] < 100
    assert figures["r_hat"][2].isnan()
    assert figures["effective_sample_size"][2].isnan()
    assert figures["r_hat"][3] == math.inf
    for name, alone in mixing(good[..., None]).items():
        assert torch.allclose(figures[name][:1], alone), name
    for num, test in ((3, torch.isnan), (4, torch.isfinite)):  # 3 steps cannot be split
        assert test(mixing(torch.stack([good, apart], -1)[:num])["r_hat"]).all()

"""NaN and infinity never pass for numbers: guides, weights, values, draws are refused by name."""

import copy
import math
from functools import partial

import pyro
import pytest
import torch
from torch import Tensor

from guides import FineTuned, MeanField, Recurrent, Tabular, Twisted
from guides.mixture import Mixture
from inference import (
    DIVERGENCES,
    Enumeration,
    Posterior,
    PriorSample,
    diagnose,
    entropy,
    importance_sampling,
    joint_at,
    log_guide_at,
    metropolis_hastings,
    rejection_sampling,
    sequential_monte_carlo,
)
from inference.diagnostics.simulation_based_calibration import simulation_based_calibration
from inference.estimate import NotANumberError, expectation
from inference.objectives.parts.log_z_average import LogZAverage
from inference.programs import NotNormalisedError
from inference.samplers import annealed_smc
from inference.samplers.log_z_bounds import log_z_bounds
from inference.samplers.posterior import NoSupportError
from inference.samplers.quasi_rejection import quasi_rejection
from inference.samplers.resampling import RESAMPLING
from inference.samplers.suffix_move import suffix_move
from model import (
    AlignmentModel,
    BradleyTerry,
    Comparisons,
    ImpossibleResponseError,
    LikelihoodError,
    ResponseDistribution,
    TokenReward,
)
from model.preferences import LinearHead

NAN, INF = math.nan, math.inf


def float64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def spoilt(guide, name):
    """Guide with one NaN among the numbers of one parameter."""
    with torch.no_grad():
        dict(guide.named_parameters())[name].view(-1)[0] = NAN
    return guide


def after_a_step_in_half_precision(prior, prompts):
    """Adam's epsilon of 1e-8 is 0 in float16: a weight without gradient becomes 0/0."""
    guide = FineTuned(prior, dtype="float16")
    log_guide_at(guide, prompts, prior(prompts).enumerate_support()).sum().backward()
    torch.optim.Adam(guide.parameters(), lr=1e-3).step()
    return guide


GUIDES = {
    "Tabular": lambda prior, prompts: spoilt(Tabular(prior, prompts), "table"),
    "MeanField": lambda prior, prompts: spoilt(MeanField(prior, prompts), "logits"),
    "Twisted": lambda prior, prompts: spoilt(Twisted(prior), "head.write.bias"),
    "Mixture": lambda prior, prompts: spoilt(
        Mixture([Tabular(prior, prompts), Twisted(prior)]), "components.0.table"
    ),
    "FineTuned": after_a_step_in_half_precision,
}
EXACT = [
    "elbo",
    "kl_guide_posterior",
    "kl_posterior_guide",
    "kl_guide_prior",
    "expected_log_likelihood",
    "total_variation",
    "elbo_gradient",
]
SAMPLERS = {
    "importance": importance_sampling,
    "rejection": partial(rejection_sampling, log_bound=50.0),
    "metropolis-hastings": partial(metropolis_hastings, num_chains=4),
    "smc": sequential_monte_carlo,
    "annealed-smc": annealed_smc,
}


@pytest.fixture(scope="module", params=GUIDES)
def of_nan(request, small_prior, prompts):
    """Guide with NaN among the parameters, and the name of the guide."""
    return GUIDES[request.param](small_prior, prompts), request.param


@pytest.mark.parametrize("measure", EXACT)
def test_a_guide_of_nan_is_never_reported_as_exact(truth, of_nan, measure):
    guide, name = of_nan
    match = rf"the guide {name} has log-probability nan .* parameters are NaN or infinite"
    with pytest.raises(NotANumberError, match=match):
        getattr(truth, measure)(guide)


def test_a_gradient_of_nan_is_an_error(small_prior, truth):
    """Recurrent guide saturated by an infinite weight: finite probabilities, NaN derivatives."""
    guide = Recurrent(small_prior)
    with torch.no_grad():
        guide.embedding.weight[7, 0] = INF
    assert truth.elbo(guide).isfinite().all()
    with pytest.raises(NotANumberError, match=r"the gradient of .* of Recurrent is nan"):
        truth.elbo_gradient(guide)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_guide_of_nan_proposes_nothing(model, prompts, of_nan, sampler):
    with pytest.raises(FloatingPointError, match="NaN"):
        SAMPLERS[sampler](model, prompts, guide=of_nan[0], num_samples=32)


def test_a_guide_of_nan_is_not_diagnosed(model, prompts, of_nan):
    with pytest.raises(FloatingPointError, match="NaN"):
        diagnose(model, of_nan[0], prompts, num_samples=32, num_prior_draws=32)


def test_nan_where_the_guide_never_goes_is_met_where_the_posterior_does(
    model, small_prior, prompts
):
    guide = Tabular(small_prior, prompts)
    with torch.no_grad():
        guide.table[:, 0, 7] = -1e4  # never begins with `good`
        guide.table[:, 1 + guide.word[7]] = NAN
    options = {"num_samples": 64, "num_prior_draws": 2000, "log_likelihood_bound": 1 / 0.3}
    with pytest.raises(NotANumberError, match="the guide Tabular has log-probability nan"):
        diagnose(model, guide, prompts, **options)


def test_a_guide_of_nan_bounds_nothing(truth, model, prompts, of_nan):
    mode = truth.support[truth.log_posterior[:, 0].argmax()]
    with pytest.raises(FloatingPointError, match="NaN"):
        log_z_bounds(model, prompts, mode, guide=of_nan[0], num_samples=4)


def test_a_prior_of_nan_is_an_error(small_prior, prompts, model):
    tuned = FineTuned(small_prior)
    nan = AlignmentModel(spoilt(tuned, next(iter(tuned.trained()))).language_model, {}, 1.0)
    with pytest.raises(NotANumberError, match="the model AlignmentModel has log-probability nan"):
        joint_at(nan, prompts, small_prior(prompts).enumerate_support())
    guide = AlignmentModel(small_prior, {}, beta=1.0)
    with pytest.raises(FloatingPointError, match="NaN"):
        importance_sampling(nan, prompts, guide=guide, num_samples=8)


def test_a_guide_over_other_responses_is_not_normalised_here(truth, small_prior, prompts):
    """Guide that ends after one token, but the truth lists two: some mass is on other rows."""
    for mass in (0.5, 0.96, 0.998):
        with pytest.raises(NotNormalisedError, match=f"sum to {mass}, expected 1"):
            truth.kl_guide_posterior(scaled(small_prior, mass))


def test_probabilities_in_half_precision_are_divided_by_their_sum(truth, small_prior, prompts):
    """Another batch rounds them differently: a sum within 5% is rounding."""
    half = copy.deepcopy(small_prior).to(torch.bfloat16)
    log_guide = truth.log_guide(scaled(half, 0.96))
    assert log_guide.exp().sum(0).sub(1).abs().max() < 1e-9
    with pytest.raises(NotNormalisedError, match="expected 1"):
        truth.log_guide(scaled(half, 0.9))


def scaled(prior, mass):
    """A program whose probabilities sum to `mass`."""

    class Lower(ResponseDistribution):
        def log_prob(self, value):
            return super().log_prob(value) + math.log(mass)

    def program(prompts):
        distribution = prior(prompts)
        distribution.__class__ = Lower
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", distribution)

    return program


def test_zeros_of_a_guide_have_a_gradient_and_impossible_draws_have_none(
    small_prior, prompts, model, truth
):
    guide = Twisted(small_prior, top_k=3)
    gradient = truth.elbo_gradient(guide)
    assert all(bool(part.isfinite().all()) for part in gradient.values())
    assert max(part.abs().max().item() for part in gradient.values()) > 0
    no_good = TokenReward(
        lambda response, _: torch.where(response[..., 0] == 7, -INF, 0.0), small_prior
    )
    match = "the guide Tabular can draw an impossible response"
    with pytest.raises(ImpossibleResponseError, match=match):
        Enumeration(AlignmentModel(small_prior, no_good, 1.0), prompts).elbo_gradient(
            Tabular(small_prior, prompts)
        )


# probability 0 counts as 0; NaN is not probability 0


def test_an_expectation_drops_only_values_of_probability_zero():
    prob, values = float64([[0.0, 0.5], [1.0, 0.5]]), float64([[NAN, 1.0], [2.0, 3.0]])
    assert torch.equal(expectation(prob, values), float64([2.0, 2.0]))
    assert expectation(float64([[NAN], [1.0]]), float64([[1.0], [1.0]])).isnan().all()
    assert expectation(float64([[0.5], [0.5]]), float64([[NAN], [1.0]])).isnan().all()
    assert torch.equal(
        expectation(float64([[0.5], [0.5]]), float64([[-INF], [1.0]])), float64([-INF])
    )


def test_entropy_refuses_numbers_that_are_no_distribution():
    assert entropy(float64([[0.5], [0.5], [0.0]]).log()).item() == pytest.approx(math.log(2))
    for log_prob in ([[NAN], [0.0]], [[-1.0], [-1.0]]):
        with pytest.raises(NotNormalisedError, match="expected 1"):
            entropy(float64(log_prob))


# weights, values and draws

ODD = pytest.mark.parametrize("odd", [NAN, INF])


def test_a_posterior_mean_refuses_nan():
    posterior = Posterior(torch.zeros(2, 1, 3, dtype=torch.long), float64([[0.0], [-INF]]), None)
    assert posterior.mean(float64([[2.0], [NAN]])).item() == 2
    with pytest.raises(NotANumberError, match="the mean of values is nan"):
        posterior.mean(float64([[NAN], [1.0]]))
    with pytest.raises(ValueError, match=r"values have shape \(2,\)"):
        posterior.mean(float64([1.0, 2.0]))
    nothing = Posterior(posterior.response, float64([[-INF], [-INF]]), None)
    with pytest.raises(NoSupportError, match="have weight 0"):
        nothing.mean(float64([[1.0], [1.0]]))


@ODD
def test_a_sample_of_the_prior_has_weights_that_are_numbers(odd):
    response, good = torch.zeros(3, 1, 2, dtype=torch.long), float64([[0.0], [-INF], [1.0]])
    bad = float64([[odd], [0.0], [0.0]])
    sample = PriorSample.of_draws(response, good)
    for make in (
        lambda: PriorSample.of_draws(response, bad),
        lambda: PriorSample(response, good, bad, exact=True),
        lambda: sample.kl(bad),
    ):
        with pytest.raises(NotANumberError, match=r"is (nan|inf)"):
            make()
    with pytest.raises(NotANumberError, match="log_weight is"):
        sample.mean(bad, good)
    without_weight = float64([[1.0], [odd], [1.0]])  # a value of weight 0 may be NaN
    assert sample.mean(good, without_weight).value == pytest.approx(1)
    with pytest.raises(NotANumberError, match="the mean of values is nan"):
        sample.mean(good, float64([[NAN], [0.0], [0.0]]))
    with pytest.raises(NoSupportError, match="-inf for all 3 responses"):
        sample.mean(torch.full_like(good, -INF), good)


def test_quasi_rejection_is_of_numbers():
    table = float64([[-1.0], [-2.0]])
    for arguments in ((table * NAN, table, 0.0), (table, table * NAN, 0.0)):
        with pytest.raises(NotANumberError, match=r"log_(target|proposal) is nan"):
            quasi_rejection(*arguments)


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_particles_are_not_resampled_by_invalid_probabilities(scheme):
    for probability in ([[NAN], [0.5]], [[0.0], [0.0]], [[-0.5], [1.5]]):
        with pytest.raises(ValueError, match="a column that is no distribution"):
            RESAMPLING[scheme](float64(probability))


def test_a_chain_does_not_move_by_weights_of_nan(small_prior, prompts):
    distribution = small_prior(prompts)
    response = distribution.sample((4,))
    with pytest.raises(NotANumberError, match="the log weight of a score is nan"):
        suffix_move(
            distribution, response, torch.zeros(4, 2), lambda proposed: torch.full((4, 2), NAN)
        )


def test_an_average_of_log_z_returns_nan_and_does_not_keep_it(prompts):
    average = LogZAverage()
    average.update(prompts, float64([1.0, 1.0]))
    assert average.update(prompts, float64([NAN, 2.0])).isnan().tolist() == [True, False]
    assert average.update(prompts, float64([1.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_slope_and_value_of_a_divergence_are_nan_at_nan(name):
    divergence = DIVERGENCES[name]
    assert divergence.slope(float64([NAN])).isnan().all()
    assert divergence.value(float64([NAN])).isnan().all()


def test_draws_of_nan_have_no_rank():
    comparisons = Comparisons(torch.randn(6, 2), torch.randn(6, 2))

    def infer(model, comparisons, *, num_samples, seed):
        return torch.full((num_samples, 2), NAN)

    with pytest.raises(NotANumberError, match="what infer returned is nan"):
        simulation_based_calibration(
            BradleyTerry(LinearHead(2)), comparisons, infer, num_simulations=1, num_samples=9
        )


@ODD
def test_a_factor_of_a_plain_program_is_a_number(small_prior, prompts, odd):
    def program(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", small_prior(prompts))
            pyro.factor("taste", torch.full(response.shape[:-1], odd))

    for run in (
        lambda: importance_sampling(program, prompts, num_samples=4),
        lambda: Enumeration(program, prompts),
    ):
        with (
            pyro.validation_enabled(False),
            pytest.raises(LikelihoodError, match=r"factor 'taste' is (nan|inf) at index"),
        ):
            run()

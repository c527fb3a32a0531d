"""Best of n: order statistics against enumerated groups, the sampler against order statistics."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import Enumeration
from inference.order_statistics import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_log_ratio,
    best_of_n_win_rate,
    best_of_n_win_rate_bound,
    level_cdf,
)
from inference.samplers.best_of_n import best_of_n
from tests.inference.samplers.goodness_of_fit import counts, graded_model, misfit


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def distribution(values, prob, n):
    """pi_n, `[L, N]`, by order statistics."""
    return prob * best_of_n_log_ratio(*level_cdf(values, prob), n).exp()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_distribution_equals_enumeration_of_every_group(n):
    """Two prompts, six responses with ties, one impossible: all 6^n groups, ties shared."""
    values = float64([[0.0, 1.0, 1.0, -math.inf, 2.0, 0.0], [3.0, 3.0, 3.0, -1.0, -2.0, 0.5]]).T
    prob = float64([[0.1, 0.2, 0.05, 0.3, 0.15, 0.2], [0.01, 0.01, 0.5, 0.08, 0.1, 0.3]]).T
    by_hand = torch.zeros_like(prob)
    for prompt in range(2):
        for group in itertools.product(range(6), repeat=n):
            best = max(values[i, prompt].item() for i in group)
            winners = [i for i in group if values[i, prompt].item() == best]
            share = math.prod(prob[j, prompt].item() for j in group) / len(winners)
            for i in winners:
                by_hand[i, prompt] += share
    assert torch.allclose(distribution(values, prob, n), by_hand, rtol=1e-12, atol=1e-15)
    cdf, cdf_left = level_cdf(values, prob)
    kl = (by_hand * (by_hand / prob).log()).sum(0)
    assert torch.allclose(best_of_n_kl(prob, cdf, cdf_left, n), kl, rtol=1e-10, atol=1e-14)
    # [x, y, N]
    ties = (values[:, None] == values[None]).double()
    beats = (values[:, None] > values[None]).double() + 0.5 * ties
    win_rate = torch.einsum("xn,yn,xyn->n", by_hand, prob, beats)
    assert torch.allclose(best_of_n_win_rate(prob, cdf, cdf_left, n), win_rate, rtol=1e-12)


def test_published_figures_of_ten_levels():
    values, prob = torch.arange(10.0)[:, None], float64([[0.1]] * 10)
    levels = level_cdf(values, prob)
    for n, kl, bound in ((4, 0.6288, 0.6363), (16, 1.7331, 1.8351), (64, 2.2935, 3.1745)):
        assert best_of_n_kl(prob, *levels, n).item() == pytest.approx(kl, abs=5e-5)
        assert best_of_n_kl_bound(n) == pytest.approx(bound, abs=1e-4)
    for n, win_rate in ((4, 0.7967), (16, 0.9283)):
        assert best_of_n_win_rate(prob, *levels, n).item() == pytest.approx(win_rate, abs=5e-5)
        assert best_of_n_win_rate(prob, *levels, n).item() < best_of_n_win_rate_bound(n)


def test_bounds_are_reached_without_ties():
    """A million levels are as good as none: and the ratio is stable where F - F- is tiny."""
    size = 1_000_000
    values, prob = torch.arange(size)[:, None], float64([[1 / size]] * size)
    levels = level_cdf(values, prob)
    assert best_of_n_kl(prob, *levels, 16).item() == pytest.approx(best_of_n_kl_bound(16), rel=1e-5)
    assert best_of_n_win_rate(prob, *levels, 16).item() == pytest.approx(16 / 17, rel=1e-5)


def test_ratio_is_stable():
    for f, step, n, expected in (
        (0.5, 0.0, 8, math.log(8 * 0.5**7)),  # the limit
        (0.5, 2.0**-50, 8, math.log(8 * 0.5**7)),  # nearly p = 1/2
        (0.7, 1e-15, 8, math.log(8 * 0.7**7)),  # where 1 - d rounds
        # where the limit is not good enough
        (1.0, 1e-9, 1000, math.log(-math.expm1(1000 * math.log1p(-1e-9)) / 1e-9)),
        (1e-30, 1e-30, 3, 2 * math.log(1e-30)),  # F- = 0
        (1.0, 1.0, 64, 0.0),  # one level: nothing to choose
        (0.3, 0.2, 1, 0.0),  # one draw: the prior
        (0.0, 0.0, 1, 0.0),
        (0.0, 0.0, 4, -math.inf),  # never drawn
        (0.9, 0.3, 5, math.log((0.9**5 - 0.6**5) / 0.3)),
    ):
        cdf = float64([f])
        ratio = best_of_n_log_ratio(cdf, cdf - step, n).item()
        assert ratio == pytest.approx(expected, rel=1e-12), (f, step, n)


def test_levels_that_are_never_drawn_count_nothing():
    prob = float64([[0.0], [1.0], [0.0]])
    levels = level_cdf(float64([[0.0], [1.0], [2.0]]), prob)
    assert best_of_n_kl(prob, *levels, 4).item() == 0
    assert best_of_n_win_rate(prob, *levels, 4).item() == 0.5


def test_swapped_or_impossible_arguments_are_errors():
    low, high = float64([0.1, 0.2]), float64([0.1, 0.6])
    with pytest.raises(ValueError, match=r"cdf_left = 0\.6, cdf = 0\.2 at index \(1,\).*swapped"):
        best_of_n_log_ratio(low, high, 4)
    with pytest.raises(ValueError, match="expected 0 <= cdf_left"):
        best_of_n_log_ratio(high + 1, low, 4)


def test_levels_are_added_up_in_double_precision():
    """A hundred thousand of them in float32 would be off by more."""
    values, prob = torch.arange(100_000)[:, None], torch.full((100_000, 1), 1e-5)
    exact = 1e-5 * (values + 1.0), 1e-5 * values
    for cdf, expected in zip(level_cdf(values, prob), exact, strict=True):
        assert cdf.dtype == torch.float64
        assert torch.allclose(cdf, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("impossible", [None, 7])
def test_sampler_has_the_exact_distribution(small_prior, verdicts, guide, guided, impossible):
    """The diagnostics, from the draws alone, agree with the exact distribution."""
    model, n = graded_model(small_prior, impossible=impossible), 3
    posterior = best_of_n(
        model, verdicts, guide=guide if guided else None, num_samples=12000, n=n, chunk=4096
    )
    assert posterior.response.shape == (4000, 2, 2)
    assert (posterior.log_weight == 0).all()
    assert posterior.log_z is None
    truth = Enumeration(model, verdicts)
    prob = (truth.log_guide(guide) if guided else truth.log_prior).exp()
    drawn = counts(posterior.response, truth.support)
    assert (misfit(drawn, distribution(truth.log_likelihood, prob, n)) < 5).all()
    for wrong in (prob, distribution(truth.log_likelihood, prob, n + 1)):
        assert (misfit(drawn, wrong) > 10).all()
    levels, diagnostics = level_cdf(truth.log_likelihood, prob), posterior.diagnostics
    assert torch.allclose(diagnostics["kl"], best_of_n_kl(prob, *levels, n), rtol=0.05)
    win_rate = best_of_n_win_rate(prob, *levels, n)
    assert torch.allclose(diagnostics["win_rate"], win_rate, rtol=0.01)
    assert torch.allclose(diagnostics["kl_bound"], float64(math.log(3) - 2 / 3))
    assert torch.allclose(diagnostics["win_rate_bound"], float64(0.75))


def test_ties_are_broken_uniformly(small_prior, verdicts):
    """All responses tie: best of n is the proposal. The first or the commonest would not be."""
    flat = lambda prompts: pyro.sample("response", small_prior(prompts))  # noqa: E731
    posterior = best_of_n(flat, verdicts, num_samples=16000, n=4, chunk=4096)
    support = small_prior(verdicts).enumerate_support()
    prob = small_prior(verdicts).log_prob(support).exp()
    assert (misfit(counts(posterior.response, support), prob) < 5).all()
    assert torch.allclose(posterior.diagnostics["kl"], torch.zeros(2).double(), atol=1e-9)
    assert torch.allclose(posterior.diagnostics["win_rate"], torch.full((2,), 0.5).double())


def test_any_distribution_at_the_site(prompts):
    """The best of n uniform numbers is Beta(n, 1), of mean n/(n+1)."""

    def model(prompts):
        uniform = dist.Uniform(torch.zeros(len(prompts), 1).double(), 1.0)
        x = pyro.sample("response", uniform.to_event(1))
        pyro.factor("reward", 7 * x.squeeze(-1))

    posterior = best_of_n(model, prompts, num_samples=16000, n=4, chunk=5000)
    # five standard errors
    assert torch.allclose(posterior.response.mean(0), float64(0.8), atol=0.013)
    assert torch.allclose(posterior.diagnostics["kl"], posterior.diagnostics["kl_bound"], rtol=1e-3)


def test_draws_that_do_not_fill_a_group_are_not_drawn(model, prompts):
    assert best_of_n(model, prompts, num_samples=50, n=16).response.shape == (3, 2, 2)


def test_no_group_is_an_error(model, prompts):
    match = "num_samples = 8 and n = 16, expected 1 <= n <= num_samples"
    with pytest.raises(ValueError, match=match):
        best_of_n(model, prompts, num_samples=8, n=16)

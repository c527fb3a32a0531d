"""Every inference of a reward against the posterior of one and two weights on a dense grid."""

import sys
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch.distributions import constraints

from inference import random_state
from inference.reward_posterior import (
    REWARD_INFERENCE,
    autoguide,
    ensemble,
    laplace,
    maximum_a_posteriori,
    nuts,
)
from inference.reward_posterior.maximum import NotMaximisedError, maximise
from model.preferences import (
    BradleyTerry,
    Comparisons,
    LinearHead,
    MLPHead,
    Preference,
    Ranking,
    Rankings,
    simulate,
)

COUNT = 200
SHORT = {"autoguide": {"num_steps": 20}, "nuts": {"warmup_steps": 20}}
"""Options of a quick inference for tests that ignore the result."""

SIZE = {"nuts": 200, "ensemble": 60}
"""Number of draws of the slow inferences."""

INDEPENDENT = {"laplace", "autoguide", "ensemble"}
"""Inferences with independent draws of an approximation."""

SHOWS_PROGRESS = {"autoguide", "nuts", "ensemble"}
DISTRIBUTIONS = sorted(name for name, entry in REWARD_INFERENCE.items() if not entry.is_point)


def data(num_features, flip=0.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, COUNT, num_features, generator=generator, dtype=torch.float64)
    w = torch.tensor([0.8, -0.4], dtype=torch.float64)[:num_features]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Comparisons(first, second, simulate(first @ w, second @ w, flip=flip))


def log_joint(model, comparisons, w, **sites):
    return (
        poutine.trace(poutine.condition(model, {"w": w, **sites}))
        .get_trace(comparisons)
        .log_prob_sum()
    )


def exact_moments(model, comparisons, num_features):
    """Mean and covariance by a sum over a grid fine and wide enough that neither matters."""
    axis = torch.linspace(-5, 5, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * num_features).view(-1, num_features)
    difference = model.head(comparisons.first, grid) - model.head(comparisons.second, grid)
    sign = 1 - 2 * comparisons.outcome.double()
    win = model.flip + (1 - 2 * model.flip) * torch.sigmoid(sign * difference)
    log_density = win.log().sum(-1) - grid.square().sum(-1) / (2 * model.prior_scale**2)
    weight = log_density.softmax(0)
    mean = weight @ grid
    centred = grid - mean
    return mean, (weight[:, None] * centred).T @ centred


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_moments_are_those_of_the_exact_posterior(name):
    """Mean, deviation and correlation to five standard errors of as many independent draws.

    NUTS counts a third of the draws. The Gaussians leave out the skew, and the members of the
    ensemble are maxima: a bias.
    """
    model, comparisons = BradleyTerry(LinearHead(2), prior_scale=2.0, flip=0.05), data(2, 0.05)
    mean, covariance = exact_moments(model, comparisons, 2)
    deviation = covariance.diagonal().sqrt()
    size = SIZE.get(name, 6000)
    samples = REWARD_INFERENCE[name](model, comparisons, num_samples=size)
    assert samples.shape == (size, 2)
    error, bias = (size**-0.5, 0.25) if name in INDEPENDENT else ((size / 3) ** -0.5, 0.0)
    assert bool(((samples.mean(0) - mean).abs() < (5 * error + bias) * deviation).all())
    assert torch.allclose(samples.std(0), deviation, rtol=5 * error / 2**0.5 + bias / 4)
    assert (
        abs(samples.T.corrcoef()[0, 1] - covariance[0, 1] / deviation.prod()) < 5 * error + bias / 8
    )


def test_laplace_comes_nearer_to_the_exact_posterior_with_more_comparisons():
    """Mean of one weight, over ten data sets: the skew falls with the number of comparisons."""
    model, errors = BradleyTerry(LinearHead(1), prior_scale=2.0), torch.zeros(2)
    for seed in range(10):
        for row, count in enumerate((10, COUNT)):
            part = data(1, seed=seed).select(torch.arange(count))
            mean, covariance = exact_moments(model, part, 1)
            # the mean of Laplace's Gaussian, without the noise of draws
            weights = maximum_a_posteriori(model, part)[0]
            errors[row] += ((weights - mean).abs() / covariance[0].sqrt()).item() / 10
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.12


@pytest.mark.parametrize("flip", [0.0, 0.1, (1.0, 9.0)])
@pytest.mark.parametrize("head", [LinearHead(2), MLPHead(2, 2)])
def test_the_gradient_vanishes_at_the_maximum(head, flip):
    model, comparisons = BradleyTerry(head, flip=flip), data(2, 0.1)
    w = maximum_a_posteriori(model, comparisons)
    assert w.shape == (1, head.num_weights)
    if isinstance(flip, tuple):
        return  # the flip probability is not kept: the next test covers the flip probability
    at = w[0].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(log_joint(model, comparisons, at), at)
    # the end of L-BFGS is not tested; a steeper point is refused
    assert gradient.abs().max() < 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_a_latent_flip_probability_makes_the_reward_larger(seed):
    """Label noise explains contradictions that otherwise shrink the reward, from any start."""
    comparisons = data(1, 0.15, seed)
    plain, noisy = (
        maximum_a_posteriori(BradleyTerry(LinearHead(1), 3.0, flip=f), comparisons, seed=seed)
        for f in (0.0, (1.0, 4.0))
    )
    assert noisy.item() > 1.1 * plain.item() > 0


@pytest.mark.parametrize("flip", [0.0, (1.0, 9.0)])
def test_maxima_of_a_network_are_close_from_any_start(flip):
    """Within 2 nats over six starts: weights near 0, a saddle, led to maxima 4 and 5 nats lower."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 100, 2, generator=generator, dtype=torch.float64)
    comparisons = Comparisons(first, second, (first.prod(1) < second.prod(1)).long())
    model = BradleyTerry(MLPHead(2, 8), flip=flip)
    noise = {"flip": torch.tensor(0.05)} if flip else {}
    maxima = [maximum_a_posteriori(model, comparisons, seed=seed)[0] for seed in range(6)]
    log_densities = [log_joint(model, comparisons, w, **noise).item() for w in maxima]
    assert max(log_densities) - min(log_densities) < 2


def test_laplace_has_the_inverse_hessian():
    """Identity for a linear head: H = 1/scale^2 + sum p (1 - p) d d'; draws within error."""
    model, comparisons = BradleyTerry(LinearHead(2), prior_scale=2.0), data(2)
    w = maximum_a_posteriori(model, comparisons)[0]
    p = torch.sigmoid(comparisons.difference @ w)
    hessian = torch.eye(2) / 4 + (comparisons.difference.T * (p * (1 - p))) @ comparisons.difference
    samples, exact = laplace(model, comparisons, num_samples=8000), hessian.inverse()
    variance = exact.diagonal()
    # of a covariance of normal draws
    error = ((exact.square() + variance[:, None] * variance) / 8000).sqrt()
    assert ((samples.T.cov() - exact).abs() < 5 * error).all()


def test_an_ensemble_keeps_the_priors_spread_where_the_data_say_nothing():
    comparisons = data(2)
    blind = Comparisons(
        comparisons.first * torch.tensor([1.0, 0.0]),
        comparisons.second * torch.tensor([1.0, 0.0]),
        comparisons.outcome,
    )
    samples = ensemble(BradleyTerry(LinearHead(2), prior_scale=1.5), blind, num_samples=60)
    assert samples[:, 1].std().item() == pytest.approx(1.5, rel=5 * (2 * 60) ** -0.5)
    assert samples[:, 0].std() < 0.5


def test_members_of_an_ensemble_start_at_different_points(monkeypatch):
    """The maximum depends on the start: a prior draw about the member's centre, by its seed."""
    starts = []

    def watched(model, comparisons, *, seed):
        with random_state.isolated(seed):
            starts.append(
                poutine.trace(replace(model, prior_mean=None))
                .get_trace(comparisons)
                .nodes["w"]["value"]
            )
        return starts[-1][None]

    monkeypatch.setattr(
        sys.modules["inference.reward_posterior.ensemble"], "maximum_a_posteriori", watched
    )
    ensemble(BradleyTerry(MLPHead(2, 2)), data(2), num_samples=5)
    assert torch.cdist(torch.stack(starts), torch.stack(starts)).add(torch.eye(5)).min() > 0.1


def test_a_thinned_chain_is_every_so_manieth_draw_of_the_whole():
    model, comparisons = BradleyTerry(LinearHead(2)), data(2)
    whole = nuts(model, comparisons, num_samples=12, warmup_steps=20)
    thinned = nuts(model, comparisons, num_samples=4, warmup_steps=20, thinning=3)
    assert thinned.shape == (4, 2)
    assert torch.equal(thinned, whole[::3])


@pytest.mark.parametrize("name", REWARD_INFERENCE)
def test_comparisons_without_outcomes_are_refused(name):
    with pytest.raises(ValueError, match="the comparisons have no outcomes"):
        REWARD_INFERENCE[name](BradleyTerry(LinearHead(1)), replace(data(1), outcome=None))


@pytest.mark.parametrize("name", REWARD_INFERENCE)
def test_a_seed_decides_nothing_is_left_behind_and_no_bar_is_drawn(name, capfd, monkeypatch):
    # either variable removes the progress bar of Pyro's chain
    for variable in ("CI", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)
    model, comparisons = BradleyTerry(LinearHead(1)), data(1)
    infer = partial(
        REWARD_INFERENCE[name].infer, model, comparisons, num_samples=3, **SHORT.get(name, {})
    )
    pyro.param("mine", torch.ones(1))
    state = torch.get_rng_state()
    first = infer()
    assert torch.equal(infer(), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store()) == ["mine"]
    assert capfd.readouterr() == ("", "")
    assert torch.allclose(infer(seed=1), first) == REWARD_INFERENCE[name].is_point
    infer(progress=True)
    assert bool(capfd.readouterr().err) == (name in SHOWS_PROGRESS)


def test_model_that_cannot_be_maximised_is_refused():
    def endless(comparisons):
        w = pyro.sample("w", dist.ImproperUniform(constraints.real_vector, (), (1,)))
        pyro.factor("outcome", w.sum())

    guide = AutoDelta(endless, init_loc_fn=init_to_value(values={"w": torch.zeros(1)}))
    with pytest.raises(NotMaximisedError, match="the gradient of the log density still has 1"):
        maximise(endless, guide, data(1), max_steps=3)


def test_slope_that_is_no_number_is_no_maximum():
    """NaN is refused also after a parameter with slope 0."""

    def model(comparisons):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
        pyro.factor("bad", (0 * v).sqrt())  # 0, of slope 0 times infinity

    guide = AutoDelta(
        model, init_loc_fn=init_to_value(values={"w": torch.tensor(0.0), "v": torch.tensor(0.5)})
    )
    with pytest.raises(NotMaximisedError):
        maximise(model, guide, None, max_steps=0)


def test_autoguide_that_leaves_the_numbers_says_so():
    comparisons = Comparisons(
        torch.randn(8, 2), torch.randn(8, 2), torch.zeros(8, dtype=torch.long)
    )
    with pytest.raises(FloatingPointError, match="step 0 was undone: value cannot be converted"):
        autoguide(
            BradleyTerry(LinearHead(2)),
            comparisons,
            num_samples=2,
            num_steps=4,
            learning_rate=1e300,
        )


def counts(texts):
    return torch.tensor([[float(text.count("a"))] for text in texts])


@pytest.mark.parametrize("flip", [0.0, 0.2])
@pytest.mark.parametrize("has_ties", [False, True])
def test_a_reward_from_preferences_is_most_probable_on_a_grid(flip, has_ties):
    pairs = [("a", "aa"), ("aaa", "a"), ("aaaa", "aa"), ("aaa", "aaaa"), ("aaaa", "a")] * 2
    preferences = [Preference("", *pair, tie=has_ties and n < 2) for n, pair in enumerate(pairs)]
    program, reward = REWARD_INFERENCE["map"].from_preferences(
        preferences, counts, prior_scale=1.5, flip=flip
    )
    numbers = counts([text for pair in pairs for text in pair]).double()
    scale = numbers.std(correction=0)
    difference = torch.tensor([len(chosen) - len(rejected) for chosen, rejected in pairs]) / scale
    w = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    d = w[:, None] * difference  # [W, C]
    nu = program.tie_strength
    assert (nu > 0) == has_ties
    wins, losses = (d / 2).exp(), (-d / 2).exp()
    whole = wins + losses + nu
    chosen = ((1 - flip) * wins + flip * losses) / whole
    is_tie = torch.tensor([each.tie for each in preferences])
    likelihood = torch.where(is_tie, nu / whole if nu else chosen, chosen)
    log_joint = likelihood.log().sum(1) - w.square() / (2 * 1.5**2)
    low, high = reward(["a", "aaaa"])[0]
    assert high - low == pytest.approx(3 * w[log_joint.argmax()].item() / scale.item(), abs=1e-3)


@pytest.mark.parametrize("name", ["map", "laplace", "ensemble"])
def test_rankings_of_two_have_the_posterior_of_comparisons(name):
    pairs = data(2)
    scores = torch.stack([1 - pairs.outcome, pairs.outcome], -1).double()
    index = torch.arange(2 * COUNT).view(2, COUNT).T
    lists = Rankings(torch.cat([pairs.first, pairs.second]), index, scores)
    model, infer = BradleyTerry(LinearHead(2)), REWARD_INFERENCE[name]
    one, other = (infer(model, each, num_samples=3, seed=1) for each in (pairs, lists))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", REWARD_INFERENCE)
def test_a_known_reward_is_recovered_from_its_rankings(name):
    """Lists of five, of which the best three are ranked; posterior deviations are near 0.07."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5 * COUNT, 2, generator=generator, dtype=torch.float64)
    model, w = BradleyTerry(LinearHead(2), 2.0), torch.tensor([0.8, -0.4]).double()
    design = Rankings(features, torch.arange(5 * COUNT).view(COUNT, 5))
    with random_state.isolated(0, features.device):
        scores = poutine.condition(model, {"w": w})(design)
    lists = design.given(scores.clamp(min=-3))
    infer, options = REWARD_INFERENCE[name].infer, SHORT.get(name, {})
    draws = infer(model, lists, num_samples=20, **options)
    assert bool(((draws.mean(0) - w).abs() < 0.25).all())


def test_rankings_of_texts_become_a_reward_in_one_call():
    texts = [f"{'a' * (i + 1)}" for i in range(6)]
    rankings = [Ranking("", tuple(texts[i : i + 4]), (1.0, 2.0, 3.0, 4.0)) for i in range(3)]

    def lengths(texts):
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    infer = REWARD_INFERENCE["laplace"].from_preferences
    _, reward = infer(rankings, lengths)
    assert bool((reward(texts).mean(0).diff() > 0).all())
    with pytest.raises(ValueError, match="flip and tie_strength are of pairs, got rankings"):
        infer(rankings, lengths, flip=0.1)

"""Rewards and factors of rewards: sums, constraints, tilts; the same posterior by optimality."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

from guides import FineTuned
from inference import Enumeration, LeaveOneOut_ELBO, fit, importance_sampling
from model import (
    AlignmentModel,
    Constraint,
    ImpossibleResponseError,
    LikelihoodError,
    OptimalityModel,
    Pattern,
    TextReward,
    Tilt,
    TokenReward,
    WeightedSum,
    contains,
    matches,
    vader_sentiment,
)
from model.optimality import LogBernoulli


@pytest.fixture(scope="module")
def support(prior, prompts):
    return prior(prompts).enumerate_support()


@pytest.fixture
def good(prior):
    return TextReward(Pattern.of_words("good"), prior)


@pytest.fixture
def sentiment(prior):
    return TextReward(vader_sentiment, prior, upper_bound=1.0)


def texts_of(prior, support):
    return [row[0] for row in prior.decode(support)]


# Weighted sums


def test_weighted_sum_is_the_sum_with_weights(prior, prompts, support, good, sentiment):
    actual = WeightedSum({"good": (0.5, good), "sentiment": (-2.0, sentiment)})(prompts, support)
    assert_close(
        actual, 0.5 * good(prompts, support) - 2 * sentiment(prompts, support), rtol=0, atol=1e-12
    )


def test_bound_of_a_sum_is_known_if_the_bounds_of_the_parts_are(good, sentiment):
    assert WeightedSum({"a": (0.5, good), "b": (2.0, sentiment)}).upper_bound == 2.5
    assert WeightedSum({"a": (-0.5, good), "b": (2.0, sentiment)}).upper_bound is None
    assert WeightedSum({"a": (1.0, lambda *_: torch.zeros(2))}).upper_bound is None


def test_faulty_part_is_named(prompts, support, good):
    with pytest.raises(LikelihoodError, match="'odd' returned shape"):
        WeightedSum({"good": (1.0, good), "odd": (1.0, lambda *_: torch.zeros(3))})(
            prompts, support
        )


@pytest.mark.parametrize("weight", [0, math.nan, math.inf])
def test_weight_that_weighs_nothing_is_refused(good, weight):
    with pytest.raises(ValueError, match="the weight of 'good' is"):
        WeightedSum({"good": (weight, good)})
    with pytest.raises(ValueError, match="got no parts"):
        WeightedSum({})


# Hard constraints


@pytest.mark.parametrize("beta", [0.1, 3.0])
def test_posterior_of_a_constraint_is_the_prior_given_it(prior, prompts, support, beta):
    model = AlignmentModel(prior, {}, beta, {"good": contains("good", prior)})
    truth = Enumeration(model, prompts)
    held = torch.tensor(["good" in text.split() for text in texts_of(prior, support)])[:, None]
    assert 0 < held.sum() < len(held)
    prob = truth.log_prior.exp() * held
    assert_close(truth.log_posterior.exp(), prob / prob.sum(0), rtol=0, atol=1e-12)
    assert_close(truth.log_z, prob.sum(0).log(), rtol=0, atol=1e-12)


def test_texts_that_contain_or_match(prior, prompts, support):
    texts = texts_of(prior, support)
    in_response = [
        bool(value) for value in contains(["good", "very bad"], prior).holds(prompts, support)[:, 0]
    ]
    assert in_response == ["good" in text.split() or "very bad" in text for text in texts]
    ends = [bool(value) for value in matches("dull$", prior).holds(prompts, support)[:, 0]]
    assert ends == [text.endswith("dull") for text in texts]
    assert not matches("Dull$", prior).holds(prompts, support).any()
    assert not contains("film", prior).holds(prompts, support[:2]).any()
    whole = contains("film", prior, whole=True).holds(prompts, support[:2])
    assert whole.tolist() == [[True, False]] * 2


def test_thresholds_include_their_ends(prompts, support, prior):
    value = TokenReward(lambda response, _: response[..., 0].double(), prior)
    first = support[..., 0]
    assert torch.equal(Constraint(value, at_least=3).holds(prompts, support), first >= 3)
    assert torch.equal(Constraint(value, at_most=3).holds(prompts, support), first <= 3)
    assert torch.equal(
        Constraint(value, at_least=3, at_most=5).holds(prompts, support),
        (first >= 3) & (first <= 5),
    )
    assert torch.equal(Constraint(value, at_least=3, at_most=3).holds(prompts, support), first == 3)
    actual = Constraint(value, at_least=3)(prompts, support)
    assert actual[first >= 3].eq(0).all()
    assert actual[first < 3].isneginf().all()


def test_threshold_that_leaves_nothing_is_refused(good):
    with pytest.raises(ValueError, match="got no threshold"):
        Constraint(good)
    with pytest.raises(ValueError, match="at_least is 2 and at_most 1"):
        Constraint(good, at_least=2, at_most=1)


def test_constraint_and_reward_are_weighed_by_importance_and_refused_by_the_elbo(
    prior, prompts, sentiment
):
    model = AlignmentModel(prior, sentiment, 0.5, {"good": contains("good", prior)})
    truth = Enumeration(model, prompts)
    assert_close(
        importance_sampling(model, prompts, num_samples=4000).log_z, truth.log_z, rtol=0, atol=0.1
    )
    with pytest.raises(ImpossibleResponseError, match=r"factor 'good' is -inf.*anneal"):
        fit(
            model,
            FineTuned(prior),
            prompts,
            num_steps=1,
            objective=LeaveOneOut_ELBO(16),
            progress=False,
        )


# Tilts


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_tilt_is_of_as_many_nats_at_any_beta(prior, prompts, good, sentiment, beta):
    features, multipliers = {"good": good, "sentiment": sentiment}, {"good": 0.7, "sentiment": -1.2}
    model = AlignmentModel(prior, {}, beta, {"tilt": Tilt(features, multipliers)})
    truth = Enumeration(model, prompts)
    expected = 0.7 * good(prompts, truth.support) - 1.2 * sentiment(prompts, truth.support)
    assert_close(truth.log_likelihood, expected, rtol=0, atol=1e-12)


def test_a_factor_is_no_feature(good):
    with pytest.raises(ValueError, match="feature 'good' is or contains a Constraint, a factor"):
        Tilt({"good": Constraint(good, at_least=1)}, {"good": 0.0})


def test_tilt_of_nothing_is_the_prior(prompts, support, good):
    tilt = Tilt({"good": good}, {"good": 0.0})
    nothing = tilt(prompts, support)
    assert nothing.eq(0).all()
    assert (nothing.shape, nothing.dtype) == (support.shape[:-1], torch.float64)
    assert tilt.upper_bound == 0.0
    with pytest.raises(ValueError, match=r"features are \['good'\] and multipliers \['bad'\]"):
        Tilt({"good": good}, {"bad": 1.0})


# Control as inference


def test_observed_optimality_gives_the_same_posterior(prior, prompts, good, sentiment):
    reward, factors = (
        {"sentiment": sentiment, "good": good},
        {"not dull": Constraint(good, at_least=0.5)},
    )
    model = AlignmentModel(prior, reward, 0.3, factors)
    truth, control = Enumeration(model, prompts), Enumeration(OptimalityModel(model), prompts)
    assert truth.log_posterior.isneginf().any()
    assert_close(control.log_posterior, truth.log_posterior, rtol=0, atol=1e-12)
    assert_close(
        control.log_z, truth.log_z - 2 / 0.3, rtol=0, atol=1e-12
    )  # the bounds are 1, 1 and 0


def test_optimality_divides_the_bound_of_a_reward_and_not_of_a_factor(prior, prompts, good):
    """log Z is lower by the bounds, 1/beta for the reward and 0.7 nats for the tilt."""
    betas = dict(zip(prompts.names(), (0.3, 2.0), strict=True))
    tilt = Tilt({"good": good}, {"good": 0.7})
    for beta, expected in ((0.3, [1 / 0.3 + 0.7] * 2), (betas, [1 / 0.3 + 0.7, 0.5 + 0.7])):
        model = AlignmentModel(prior, {"reward": good}, beta, {"tilt": tilt})
        truth, control = (Enumeration(each, prompts) for each in (model, OptimalityModel(model)))
        assert_close(control.log_posterior, truth.log_posterior, rtol=0, atol=1e-12)
        assert_close(truth.log_z - control.log_z, torch.tensor(expected).double())


def test_optimality_is_an_observed_site_in_the_plate(prior, prompts, sentiment):
    model = OptimalityModel(AlignmentModel(prior, {"sentiment": sentiment}, beta=0.3))
    with pyro.plate("particles", 4, dim=-2):
        trace = poutine.trace(model).get_trace(prompts)
    site = trace.nodes["sentiment"]
    assert site["is_observed"]
    assert (site["value"] == 1).all()
    assert site["value"].shape == (4, 2)
    assert {frame.name for frame in site["cond_indep_stack"]} == {"particles", "prompts"}


def test_same_guide_gradient_with_and_without_the_observation(prior, prompts, sentiment):
    """The observation adds a constant to log w, which leave-one-out does not see."""
    gradients = []
    for model in (plain := AlignmentModel(prior, sentiment, beta=0.3), OptimalityModel(plain)):
        torch.manual_seed(0)
        guide = FineTuned(prior)
        pyro.clear_param_store()
        LeaveOneOut_ELBO(8).loss_and_grads(model, guide, prompts)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in guide.parameters()]))
    assert gradients[0].norm() > 0
    assert_close(gradients[1], gradients[0], rtol=0, atol=1e-10)


def test_unbounded_reward_cannot_be_optimal(prior, prompts):
    unbounded = AlignmentModel(prior, TextReward(lambda texts: [0.0] * len(texts), prior), 1.0)
    with pytest.raises(ValueError, match=r"'reward' has no `upper_bound`.*AlignmentModel"):
        OptimalityModel(unbounded)(prompts)


def test_reward_above_the_bound_by_rounding_is_certain(prior, prompts):
    over = TokenReward(
        lambda x, _: torch.full(x.shape[:-1], 1 + 1e-7, dtype=torch.float64), prior, 1.0
    )
    model = AlignmentModel(prior, over, beta=1.0)
    assert Enumeration(OptimalityModel(model), prompts).log_likelihood.eq(0).all()


@pytest.mark.parametrize("bound", [0.0, 1.0, -20.0])
def test_reward_slightly_above_the_bound_is_refused(prior, prompts, bound):
    """Excess of a thousandth, relative to the bound or 1: above rounding, invisible in samples."""
    over = bound + 1e-3 * (1 + abs(bound))
    model = AlignmentModel(
        prior,
        TokenReward(lambda x, _: torch.full(x.shape[:-1], over).double(), prior, bound),
        beta=1.0,
    )
    with pytest.raises(LikelihoodError, match=r"exceeds its `upper_bound` by .* nats"):
        OptimalityModel(model)(prompts)


def test_log_bernoulli_is_a_coin():
    log_prob = torch.tensor([0.0, -1e-20, -0.5, -50.0, -torch.inf], dtype=torch.float64)
    coin = LogBernoulli(log_prob)
    one, zero = coin.log_prob(torch.ones(5)), coin.log_prob(torch.zeros(5))
    assert torch.equal(one, log_prob)
    assert_close(one.exp() + zero.exp(), torch.ones(5, dtype=torch.float64))
    drawn = coin.sample((20_000,)).mean(0)
    assert_close(drawn, log_prob.exp(), rtol=0, atol=0.02)
    assert coin.expand((3, 5)).batch_shape == (3, 5)

"""Distributional constraints: the fitted multipliers against closed forms and enumeration."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from inference import Enumeration, PriorSample, match_moments, sample_prior
from inference.targets import moment_dual
from inference.targets.moment_dual import MomentDual
from inference.targets.moments import UnattainableMomentsError
from model import AlignmentModel, Constraint, LikelihoodError, Pattern, TextReward, contains
from tests.inference.objectives.table import ONE, SPACE, TWO, Table, Target


def no_reward(prompts, response):
    return torch.zeros(response.shape[:-1], dtype=torch.float64)


@pytest.fixture
def base(small_prior):
    return AlignmentModel(small_prior, no_reward, beta=1.0)


@pytest.fixture
def features(small_prior):
    return {
        "good": TextReward(Pattern.of_words("good"), small_prior),
        "adverb": TextReward(Pattern.of_words(["not", "very"]), small_prior),
    }


def coin(rate):
    """Prior of one token, 1 with probability `rate`, and the indicator of 1 as a feature."""
    target = Target(no_reward)
    with torch.no_grad():
        target.prior.first[1] = torch.tensor(
            [-torch.inf, math.log(rate), math.log1p(-rate)], dtype=torch.float64
        )
    return target, lambda prompts, response: (response[..., 0] == 1).double()


@pytest.mark.parametrize("rate", [0.0741, 0.3, 0.9])
def test_binary_feature_to_one_half_has_the_log_odds_as_multiplier(rate):
    """lambda = log (1 - m)/m; 7.41% gives 2.526, as published for "female" (2012.11635)."""
    model, feature = coin(rate)
    match = match_moments(model, ONE, {"female": feature}, {"female": 0.5})
    assert match.multipliers["female"] == pytest.approx(math.log((1 - rate) / rate), abs=1e-11)
    if rate == 0.0741:
        assert match.multipliers["female"] == pytest.approx(2.526, abs=1e-3)
    assert match.attainable
    assert match.effective_sample_size is None
    assert match.standard_errors == {"female": 0.0}
    assert match.kl.value == pytest.approx(
        0.5 * math.log(0.5 / rate) + 0.5 * math.log(0.5 / (1 - rate)), abs=1e-11
    )


def test_tilted_model_has_the_moments_and_is_the_nearest(base, features, small_prior, prompts):
    targets = {"good": 0.5, "adverb": 0.3}
    match = match_moments(base, prompts, features, targets)
    truth = Enumeration(AlignmentModel(small_prior, {}, 1.0, {"moments": match.factor}), prompts)
    phi = torch.stack([features[name](prompts, truth.support) for name in targets])
    reached = (truth.log_posterior.exp() * phi).sum(1).mean(-1)
    assert_close(
        reached, torch.tensor(list(targets.values()), dtype=torch.float64), rtol=0, atol=1e-8
    )
    assert_close(
        reached.tolist(), [match.moments[name].value for name in targets], rtol=0, atol=1e-8
    )
    kl = (truth.log_posterior.exp() * (truth.log_posterior - truth.log_prior)).sum(0).mean()
    assert match.kl.value == pytest.approx(kl.item(), abs=1e-10)

    # other distributions with these moments are further from the prior: move, moments held
    p, q = truth.log_posterior.exp(), truth.log_prior.exp()
    torch.manual_seed(0)
    n = p.shape[1]
    rows = [
        torch.where(torch.arange(n) == i, 1.0, 0.0).double().expand_as(p).flatten()
        for i in range(n)
    ]
    held = torch.stack([*rows, *(part.flatten() for part in phi)])
    noise = torch.randn(p.numel(), dtype=torch.float64) * p.flatten()
    scaled = held * p.flatten()  # within the support, scaled by p
    step = p.flatten() * (
        noise / p.flatten() - held.T @ torch.linalg.solve(scaled @ held.T, held @ noise)
    )
    assert (held @ step).abs().max() < 1e-9
    other = p.flatten() + 0.5 * step * (p.flatten() / step.abs().clamp(min=1e-300)).min()
    further = (other * (other / q.flatten()).log()).sum() / n
    assert further > kl + 1e-6


def test_hybrid_constraints_hold_together(small_prior, features, prompts):
    """Pointwise: "not" or "very" occurs. Distributional: no "very" in 70% of responses."""
    adverb = {"adverb": contains(["not", "very"], small_prior)}
    pointwise = AlignmentModel(small_prior, {}, 1.0, adverb)
    feature = TextReward(Pattern.of_words("very"), small_prior)
    match = match_moments(pointwise, prompts, {"very": feature}, {"very": 0.3})
    truth = Enumeration(
        AlignmentModel(small_prior, {}, 1.0, adverb | {"very": match.factor}), prompts
    )
    p = truth.log_posterior.exp()
    assert (p * feature(prompts, truth.support)).sum(0).mean().item() == pytest.approx(
        0.3, abs=1e-8
    )
    allowed = contains(["not", "very"], small_prior).holds(prompts, truth.support)
    assert p[~allowed].eq(0).all()
    assert match.moments["very"].value == pytest.approx(0.3, abs=1e-8)
    base = (truth.log_prior.exp() * feature(prompts, truth.support)).sum(0)
    possible = (truth.log_prior.exp() * allowed).sum(0)
    assert match.base_moments["very"].value == pytest.approx(
        (base / possible).mean().item(), abs=1e-10
    )


@pytest.fixture(scope="module")
def larger(prior):
    """A base of 820 responses, two features of them and their targets."""
    features = {
        "good": TextReward(Pattern.of_words("good"), prior),
        "adverb": TextReward(Pattern.of_words(["not", "very"]), prior),
    }
    return AlignmentModel(prior, no_reward, beta=1.0), features, {"good": 0.5, "adverb": 0.7}


FIVE_ERRORS = 5 * 40**-0.5
"""Five standard errors of the mean of forty numbers of deviation 1.

For the deviation, divide by the root of two.
"""


@pytest.mark.slow
def test_draws_find_the_exact_multipliers_within_their_errors(larger, prompts):
    base, features, targets = larger
    exact = match_moments(base, prompts, features, targets)
    runs = [match_moments(base, prompts, features, targets, num_draws=400) for _ in range(40)]
    assert exact.effective_sample_size is None
    assert all(200 < run.effective_sample_size < 400 for run in runs)
    for name in targets:
        z = torch.tensor(
            [
                (run.multipliers[name] - exact.multipliers[name]) / run.standard_errors[name]
                for run in runs
            ]
        )
        assert z.std().item() == pytest.approx(1, abs=FIVE_ERRORS / 2**0.5)
        assert abs(z.mean()) < FIVE_ERRORS
        assert all(
            run.moments[name].value == pytest.approx(targets[name], abs=1e-6) for run in runs
        )
    z = torch.tensor([(run.kl.value - exact.kl.value) / run.kl.standard_error for run in runs])
    assert z.std().item() == pytest.approx(1, abs=FIVE_ERRORS / 2**0.5)
    assert abs(z.mean()) < FIVE_ERRORS


def test_errors_of_the_sample_are_the_spread_of_fresh_draws():
    """Standard errors of a weighted mean and of the KL of the weighted prior to two others."""
    torch.manual_seed(0)
    log_p, w, b, f = (torch.randn(12, 2, dtype=torch.float64) for _ in range(4))
    log_p = log_p.log_softmax(0)
    b[0] = -torch.inf
    w[:2] = -torch.inf
    listed = PriorSample(torch.zeros(12, 2, 1), log_p, w, exact=True)
    exact = [listed.mean(w, f), listed.kl(w), listed.kl(w, b)]
    runs = []
    for _ in range(600):
        at = torch.stack(
            [torch.multinomial(log_p[:, n].exp(), 500, replacement=True) for n in range(2)], 1
        )
        w_at, b_at, f_at = (values.gather(0, at) for values in (w, b, f))
        drawn = PriorSample.of_draws(at[..., None], w_at)
        runs.append((drawn.mean(w_at, f_at), drawn.kl(w_at), drawn.kl(w_at, b_at)))
    for drawn, true in zip(zip(*runs, strict=True), exact, strict=True):
        values = torch.tensor([estimate.value for estimate in drawn])
        claimed = sum(estimate.standard_error for estimate in drawn) / len(drawn)
        assert claimed == pytest.approx(values.std().item(), rel=5 * (2 * 600) ** -0.5)
        assert values.mean().item() == pytest.approx(true.value, abs=0.3 * claimed)
        assert true.standard_error == 0


@pytest.mark.on_cpu
def test_gradient_and_hessian_are_those_of_the_dual():
    torch.manual_seed(0)
    phi, log_base = (
        torch.randn(2, 9, 3, dtype=torch.float64),
        torch.randn(9, 3, dtype=torch.float64).log_softmax(0),
    )
    dual, at, step = (
        MomentDual(phi, log_base, torch.tensor([0.2, -0.1], dtype=torch.float64)),
        np.array([0.4, -0.7]),
        1e-5,
    )
    for i, e in enumerate(np.eye(2)):
        (above, up), (below, down) = (
            dual.value_and_gradient(at + step * e),
            dual.value_and_gradient(at - step * e),
        )
        assert dual.value_and_gradient(at)[1][i] == pytest.approx(
            (above - below) / (2 * step), abs=1e-8
        )
        assert dual.hessian(at)[i] == pytest.approx((up - down) / (2 * step), abs=1e-8)


@pytest.mark.parametrize(("target", "reached"), [(1.0, 1.0), (1.4, 1.0), (0.0, 0.0), (-0.2, 0.0)])
def test_target_out_of_reach_is_said_to_be(base, features, prompts, target, reached):
    good = {"good": features["good"]}
    with pytest.warns(UserWarning, match="no finite multipliers give the moments good"):
        match = match_moments(base, prompts, good, {"good": target})
    assert not match.attainable
    assert match.moments["good"].value == pytest.approx(reached, abs=0.01)
    with pytest.raises(UnattainableMomentsError, match=r"use `Constraint`"):
        _ = match.factor
    assert "no finite multipliers" in str(match)


def test_responses_that_the_base_excludes_are_unattainable(small_prior, features, prompts):
    without = AlignmentModel(small_prior, {}, 1.0, {"bad": Constraint(features["good"], at_most=0)})
    with pytest.warns(UserWarning, match="no finite multipliers"):
        assert not match_moments(
            without, prompts, {"good": features["good"]}, {"good": 0.5}
        ).attainable


def test_each_within_reach_and_both_not(base, features, small_prior, prompts):
    """ "good" and "bad" in 80% each cannot be while a response of two tokens seldom has both."""
    both = {name: TextReward(Pattern.of_words(name), small_prior) for name in ("good", "bad")}
    both["neither"] = lambda p, x: 1 - torch.maximum(both["good"](p, x), both["bad"](p, x))
    with pytest.warns(UserWarning, match="no finite multipliers"):
        match = match_moments(base, prompts, both, {"good": 0.1, "bad": 0.1, "neither": 0.7})
    assert not match.attainable
    assert match_moments(base, prompts, both, {"good": 0.1, "bad": 0.1, "neither": 0.85}).attainable


def test_features_that_say_the_same_share_the_work(base, features, prompts):
    twice = {"a": features["good"], "b": features["good"]}
    match = match_moments(base, prompts, twice, {"a": 0.5, "b": 0.5})
    alone = match_moments(base, prompts, {"a": features["good"]}, {"a": 0.5})
    assert sum(match.multipliers.values()) == pytest.approx(alone.multipliers["a"], abs=1e-6)


def test_prior_sample_lists_few_responses_and_draws_from_many(base, prompts):
    listed, drawn = sample_prior(base, prompts, 91), sample_prior(base, prompts, 90)
    assert (listed.exact, drawn.exact) == (True, False)
    assert (len(listed.response), len(drawn.response)) == (91, 90)
    for sample in (listed, drawn):
        assert_close(sample.log_prior_weight.logsumexp(0).exp(), torch.ones(2, dtype=torch.float64))


def test_two_prompts_share_multipliers_and_mean(base, features, prompts):
    assert SPACE.num_responses == 7
    model = Target(no_reward)
    model.prior = Table(3).requires_grad_(False)
    feature = {"one": lambda _, x: (x[..., 0] == 1).double()}
    match = match_moments(model, TWO, feature, {"one": 0.6})
    p = model.prior.distribution(TWO)
    support = p.enumerate_support()
    phi = feature["one"](TWO, support)
    prob = (p.log_prob(support) + match.multipliers["one"] * phi).softmax(0)
    each = (prob * phi).sum(0)
    assert each.mean().item() == pytest.approx(0.6, abs=1e-8)
    assert (each[0] - each[1]).abs() > 0.01


@pytest.mark.parametrize("num_draws", [4096, 500])
@pytest.mark.parametrize("value", [1.0, 0.3])
def test_a_feature_that_is_the_same_everywhere_changes_nothing(
    base, features, prompts, num_draws, value
):
    """Rounding gives the feature a standard deviation of 1e-16, no unit for a multiplier."""
    constant = {
        "constant": lambda prompts, response: torch.full(
            response.shape[:-1], value, dtype=torch.float64
        )
    }
    torch.manual_seed(0)
    alone = match_moments(
        base, prompts, features, {"good": 0.5, "adverb": 0.3}, num_draws=num_draws
    )
    torch.manual_seed(0)
    targets = {"good": 0.5, "adverb": 0.3, "constant": value}
    beside = match_moments(base, prompts, {**features, **constant}, targets, num_draws=num_draws)
    assert beside.attainable
    assert beside.multipliers["constant"] == 0
    assert beside.moments["constant"].value == pytest.approx(value)
    for name, multiplier in alone.multipliers.items():
        assert beside.multipliers[name] == pytest.approx(multiplier, abs=1e-9)
        assert beside.moments[name].value == pytest.approx(targets[name], abs=1e-9)
    with pytest.warns(UserWarning, match="no finite multipliers"):
        other = match_moments(
            base,
            prompts,
            {**features, **constant},
            {**targets, "constant": 0.9},
            num_draws=num_draws,
        )
    assert not other.attainable
    assert other.multipliers["constant"] == 0


def test_a_feature_that_a_constraint_of_the_base_fixes_changes_nothing(
    features, small_prior, prompts
):
    base = AlignmentModel(small_prior, {}, 1.0, {"not": contains("not", small_prior)})
    errors = {
        "not": TextReward(Pattern.of_words("not"), small_prior, whole=False),
        "good": features["good"],
    }
    match = match_moments(base, prompts, errors, {"not": 1.0, "good": 0.4})
    assert match.attainable
    assert match.multipliers["not"] == 0
    assert match.moments["good"].value == pytest.approx(0.4, abs=1e-9)


def test_features_and_targets_without_a_mean_are_named(base, features, small_prior, prompts):
    match = "the target of 'good' is nan, expected a finite number: it is a mean"
    with pytest.raises(ValueError, match=match):
        match_moments(base, prompts, {"good": features["good"]}, {"good": math.nan})
    match = "feature 'not' is -inf for some response, and has no mean"
    with pytest.raises(LikelihoodError, match=match):
        match_moments(base, prompts, {"not": contains("not", small_prior)}, {"not": 0.0})


def test_a_solution_that_is_none_is_not_returned(base, features, prompts, monkeypatch):
    monkeypatch.setattr(moment_dual, "POLISH", 0)
    monkeypatch.setattr(moment_dual, "GRADIENT", 1.0)  # content with anything
    with pytest.raises(RuntimeError, match="did not converge: the moments are off by up to"):
        match_moments(base, prompts, features, {"good": 0.5, "adverb": 0.3})


@pytest.mark.parametrize("beta", [0.03, 0.02, 0.0175])
def test_a_feature_that_the_base_hardly_has_is_no_constant(features, small_prior, prompts, beta):
    """Feature of probability 1e-15 to 1e-25 under the base: the multiplier is large and right."""
    bad = TextReward(Pattern.of_words("bad"), small_prior)
    base = AlignmentModel(small_prior, lambda p, x: -bad(p, x), beta=beta)
    match = match_moments(base, prompts, {"bad": bad}, {"bad": 0.5})
    assert match.attainable
    assert match.multipliers["bad"] > 30
    tilted = AlignmentModel(small_prior, base.rewards, beta, {"tilt": match.factor})
    truth = Enumeration(tilted, prompts)
    assert (truth.log_posterior.exp() * bad(prompts, truth.support)).sum(
        0
    ).mean().item() == pytest.approx(0.5, abs=1e-9)


def test_few_effective_draws_are_warned_of(base, features, prompts, prior):
    base = AlignmentModel(prior, no_reward, beta=1.0)
    bad = TextReward(Pattern.of_words("bad"), prior)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"^\d+ effective draws represent the distribution"):
        match = match_moments(base, prompts, {"bad": bad}, {"bad": 0.99}, num_draws=60)
    assert "effective draws represent the distribution" in str(match)

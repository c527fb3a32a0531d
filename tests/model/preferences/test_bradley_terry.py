"""The distribution of a comparison, and the Pyro program of comparisons."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from model.preferences import (
    FIRST,
    HEADS,
    SECOND,
    TIE,
    BradleyTerry,
    Comparisons,
    LinearHead,
    MLPHead,
    Preference,
    log_outcome,
    simulate,
)

D = torch.tensor([-3.0, 0.0, 0.4, 2.0], dtype=torch.float64)


def comparisons(count=5, num_features=3, outcome=None):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, count, num_features, generator=generator, dtype=torch.float64)
    return Comparisons(first, second, outcome)


def test_without_ties_the_probability_is_logistic_in_the_difference():
    prob = log_outcome(D).exp()
    assert torch.allclose(prob[:, FIRST], torch.sigmoid(D))
    assert torch.allclose(prob[:, SECOND], torch.sigmoid(-D))
    assert torch.equal(prob[:, TIE], torch.zeros_like(D))


def test_ties_are_davidsons():
    """P(tie) = nu sqrt(pi_i pi_j) / (pi_i + pi_j + nu sqrt(pi_i pi_j)), with pi = exp(r).

    Equation 1 of Davidson 1970.
    """
    first, second, nu = torch.tensor(1.3).double().exp(), torch.tensor(0.2).double().exp(), 0.7
    total = first + second + nu * (first * second).sqrt()
    prob = log_outcome((first / second).log()[None], tie_strength=nu).exp()[0]
    assert torch.allclose(prob, torch.stack([first, second, nu * (first * second).sqrt()]) / total)


def test_a_slip_turns_preferences_around_and_leaves_ties():
    plain, slipped = (log_outcome(D, flip, 0.5).exp() for flip in (0.0, 0.2))
    assert torch.allclose(slipped[:, FIRST], 0.8 * plain[:, FIRST] + 0.2 * plain[:, SECOND])
    assert torch.allclose(slipped[:, TIE], plain[:, TIE])
    assert torch.allclose(slipped.sum(-1), torch.ones_like(D))


@pytest.mark.parametrize("flip", [0.0, 0.1])
@pytest.mark.parametrize("tie_strength", [0.0, 1.0])
def test_no_difference_is_too_large(flip, tie_strength):
    difference = torch.tensor([-1e5, 1e5], dtype=torch.float64, requires_grad=True)
    log_prob = log_outcome(difference, flip, tie_strength)[:, :TIE]
    assert bool(log_prob.isfinite().all())
    log_prob.sum().backward()
    assert bool(difference.grad.isfinite().all())
    expected = math.log(flip) if flip else -1e5
    assert log_prob[0, FIRST].item() == pytest.approx(expected, rel=1e-3)


def test_the_program_has_the_stated_density():
    data = comparisons(outcome=torch.tensor([FIRST, SECOND, TIE, FIRST, TIE]))
    head, w = MLPHead(3, 2), torch.linspace(-1, 1, 10).double()
    model = BradleyTerry(head, prior_scale=0.5, flip=0.1, tie_strength=0.4)
    trace = poutine.trace(poutine.condition(model, {"w": w})).get_trace(data)
    log_prob = log_outcome(head(data.first, w) - head(data.second, w), 0.1, 0.4)
    prior = -(w**2).sum() / (2 * 0.25) - 10 * math.log(0.5 * math.sqrt(2 * math.pi))
    assert torch.allclose(
        trace.log_prob_sum(), prior + log_prob[torch.arange(5), data.outcome].sum()
    )


def test_particles_in_parallel_have_the_densities_they_have_one_by_one():
    data = comparisons(outcome=torch.tensor([FIRST, SECOND, SECOND, FIRST, FIRST]))
    model = BradleyTerry(LinearHead(3), flip=(1.0, 9.0))
    w, flip = torch.randn(4, 3).double(), torch.rand(4).double() / 2

    def density(program, w, flip):
        trace = poutine.trace(poutine.condition(program, {"w": w, "flip": flip})).get_trace(data)
        trace.compute_log_prob()
        return trace.nodes["outcome"]["log_prob"]

    with pyro.plate("particles", 4, dim=-2):
        together = density(model, w[:, None], flip[:, None])
    assert together.shape == (4, 5)
    for k in range(4):
        assert torch.allclose(together[k], density(model, w[k], flip[k]))


def test_outcomes_have_the_stated_distribution():
    """Within five standard errors, by `simulate` and by the program run forward."""
    prob = log_outcome(torch.tensor([0.8]).double(), 0.1, 0.5).exp()[0]
    error = (prob * (1 - prob) / 20_000).sqrt()
    zeros = torch.zeros(20_000).double()
    drawn = simulate(zeros + 0.8, zeros, flip=0.1, tie_strength=0.5)
    assert bool(((torch.bincount(drawn) / 20_000 - prob).abs() < 5 * error).all())
    model = BradleyTerry(LinearHead(1), flip=0.1, tie_strength=0.5)
    data = Comparisons(torch.full((20_000, 1), 0.8).double(), torch.zeros(20_000, 1).double())
    (drawn,) = Predictive(model, {"w": torch.ones(1, 1).double()})(data)["outcome"]
    assert bool(((torch.bincount(drawn) / 20_000 - prob).abs() < 5 * error).all())


def test_comparisons_of_preferences():
    preferences = [Preference("a", "b", "cd"), Preference("", "e", "fgh", tie=True)]
    comparisons = Comparisons.of(
        preferences, lambda texts: torch.tensor([[float(len(text))] for text in texts])
    )
    assert comparisons.first.tolist() == [[2], [1]]
    assert comparisons.second.tolist() == [[3], [3]]
    assert comparisons.outcome.tolist() == [FIRST, TIE]
    assert comparisons.select(torch.tensor([1, 1])).outcome.tolist() == [TIE, TIE]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 0.5}, "flip is 0.5"),
        (
            {"flip": [1, 9]},
            r"flip is \[1, 9\], expected a finite number.*or a tuple of the two parameters",
        ),
        ({"flip": (0.0, 1.0)}, "two positive parameters"),
        ({"flip": (1.0, math.inf)}, "two positive parameters"),
        ({"flip": (1.0,)}, r"flip is \(1.0,\), expected two positive parameters"),
        ({"tie_strength": -1}, "tie_strength is -1"),
        ({"tie_strength": math.inf}, "tie_strength is inf"),
        ({"prior_mean": torch.zeros(1)}, r"prior_mean has shape \(1,\), expected \[3\]"),
    ],
)
def test_impossible_options_of_a_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BradleyTerry(LinearHead(3), **options)


IMPOSSIBLE = {
    r"outcome has shape \(1,\), expected \[5\]": {"outcome": torch.tensor([FIRST])},
    "outcome has type torch.float32, expected integers": {"outcome": torch.zeros(5)},
    "outcome has type torch.bool, expected integers": {"outcome": torch.zeros(5).bool()},
    "outcome is 3 in comparison 3, expected FIRST, SECOND or TIE": {
        "outcome": torch.tensor([0, 1, 2, 3, 0])
    },
    "outcome is -1 in comparison 1": {"outcome": torch.tensor([0, -1, 2, 1, 0])},
    r"first has shape \(3,\).*expected features \[C, D\]": {"first": torch.zeros(3).double()},
    "second has .* type torch.int64, expected features .* as floats": {
        "second": torch.zeros(5, 3).long()
    },
    r"first has shape \(5, 3\).*second \(1, 3\)": {"second": torch.zeros(1, 3).double()},
    "type torch.float64, second .* torch.float32, expected the same": {"second": torch.zeros(5, 3)},
    "no comparisons, expected at least one": {
        "first": torch.zeros(0, 3),
        "second": torch.zeros(0, 3),
        "outcome": None,
    },
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_impossible_comparisons_are_refused(message):
    data = comparisons(outcome=torch.tensor([FIRST, SECOND, TIE, FIRST, TIE]))
    with pytest.raises(ValueError, match=message):
        replace(data, **IMPOSSIBLE[message])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused_with_their_comparison(value):
    data = comparisons()
    data.second[2, 1] = value
    match = "second is not finite in 1 of 5 rows, the first of them number 2"
    with pytest.raises(ValueError, match=match):
        replace(data)


def test_a_simulation_without_a_distribution_is_refused():
    rewards = torch.zeros(3).double()
    match = r"flip is 1.5, expected a finite number of at least 0 and of at most 1"
    with pytest.raises(ValueError, match=match):
        simulate(rewards, rewards, flip=1.5)
    with pytest.raises(ValueError, match="tie_strength is inf"):
        simulate(rewards, rewards, tie_strength=math.inf)
    with pytest.raises(ValueError, match=r"first has shape \(3,\), second \(1,\)"):
        simulate(rewards, rewards[:1])
    with pytest.raises(ValueError, match="a reward is NaN or infinite"):
        simulate(rewards, rewards - math.inf)


def test_ties_that_cannot_be_are_refused():
    data = comparisons(outcome=torch.tensor([FIRST, TIE, TIE, FIRST, FIRST]))
    with pytest.raises(ValueError, match="2 of 5 comparisons are ties"):
        BradleyTerry(LinearHead(3))(data)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_the_same_for_many_weights_as_for_each(name):
    head = HEADS[name](3)
    features, w = torch.randn(5, 3).double(), torch.randn(2, 4, head.num_weights).double()
    rewards = head(features, w)
    assert rewards.shape == (2, 4, 5)
    assert torch.allclose(rewards[1, 2], head(features, w[1, 2]))
    assert torch.allclose(rewards[1, 2, 3:4], head(features[3:4], w[1, 2]))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_for_other_features_or_weights_says_so(name):
    head = HEADS[name](4)
    match = rf"{type(head).__name__}.* features of shape \(5, 3\), expected \[\.\.\., 4\]"
    with pytest.raises(ValueError, match=match):
        BradleyTerry(head)(comparisons())
    match = rf"weights of shape \(3,\), expected \[..., {head.num_weights}\]"
    with pytest.raises(ValueError, match=match):
        head(torch.zeros(5, 4), torch.zeros(3))


def test_heads_by_hand():
    features = torch.tensor([[1.0, 2.0]])
    assert LinearHead(2)(features, torch.tensor([3.0, -1.0])).item() == pytest.approx(1)
    w = torch.tensor(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 2.0, 3.0]
    )  # A = [[.1, .2], [.3, .4]], b = [.5, .6], v = [2, 3]
    expected = (2 * math.tanh(0.1 + 0.6 + 0.5) + 3 * math.tanh(0.2 + 0.8 + 0.6)) / math.sqrt(2)
    assert MLPHead(2, 2)(features, w).item() == pytest.approx(expected)

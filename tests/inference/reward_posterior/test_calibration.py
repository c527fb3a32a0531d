"""Calibration of predictions, and simulation-based calibration of the inference."""

import math

import pytest
import torch

from inference.diagnostics.simulation_based_calibration import Ranks, simulation_based_calibration
from inference.reward_posterior import laplace
from inference.reward_posterior.calibration import calibrate, predict
from model.preferences import FIRST, SECOND, TIE, BradleyTerry, Comparisons, LinearHead, simulate


def test_by_hand():
    probability = torch.tensor([0.9, 0.9, 0.2, 0.5, 0.6]).double()
    outcome = torch.tensor([FIRST, SECOND, SECOND, FIRST, TIE])
    result = calibrate(probability, outcome, num_bins=5)
    assert result.accuracy.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert result.log_loss.value == pytest.approx(
        -(math.log(0.9) + math.log(0.1) + math.log(0.8) + math.log(0.5)) / 4
    )
    assert result.confidence.tolist() == pytest.approx([0.5, 0.8, 0.9])
    assert result.correct.tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert result.count.tolist() == [1, 1, 2]
    assert result.ece == pytest.approx((0 + 0.2 + 2 * 0.4) / 4)


def test_which_response_is_called_the_first_does_not_matter():
    probability, outcome = torch.rand(50).double(), torch.randint(2, (50,))
    result, turned = calibrate(probability, outcome), calibrate(1 - probability, 1 - outcome)
    assert result.ece == pytest.approx(turned.ece)
    assert result.log_loss == pytest.approx(turned.log_loss)


def test_standard_errors_are_over_pairs_however_often_a_pair_was_judged():
    probability, outcome = torch.rand(50).double(), torch.randint(2, (50,))
    once, pair = calibrate(probability, outcome), [*range(50)] * 9
    often = calibrate(probability.repeat(9), outcome.repeat(9), pair=pair)
    assert often.log_loss == pytest.approx(once.log_loss)
    assert often.accuracy == pytest.approx(once.accuracy, rel=0.05)  # without the rule of Laplace
    assert calibrate(torch.ones(9), torch.full((9,), FIRST)).accuracy.standard_error > 0.09
    one = torch.tensor([0.7]), torch.tensor([FIRST])
    assert calibrate(*one).accuracy.standard_error == pytest.approx(math.sqrt(2) / 3)
    assert math.isnan(calibrate(*one, pair=[0]).accuracy.standard_error)
    with pytest.raises(TypeError, match="pair is a int, expected a Sequence"):
        calibrate(probability, outcome, pair=3)
    with pytest.raises(ValueError, match="pair has 450 entries, expected 50"):
        calibrate(probability, outcome, pair=pair)


def test_the_truth_has_the_error_that_chance_alone_makes_and_overconfidence_has_more():
    difference = 2 * torch.randn(4000).double()
    outcome = simulate(difference, torch.zeros_like(difference))
    true, bold = (calibrate(torch.sigmoid(scale * difference), outcome) for scale in (1.0, 3.0))
    # ten bins of about one error: its spread is a quarter
    assert true.ece < 2.5 * true.ece_by_chance
    assert bold.ece > 5 * bold.ece_by_chance
    assert bold.log_loss.value > true.log_loss.value


def test_the_error_by_chance_is_the_mean_error_of_a_predictor_that_is_right():
    """Over many data sets: E|N(0, v)| = sqrt(2 v/pi) for each bin."""
    errors, expected = [], []
    for _ in range(600):
        probability = torch.rand(2000).double()
        result = calibrate(probability, (torch.rand(2000) > probability).long())
        errors.append(result.ece)
        expected.append(result.ece_by_chance)
    assert sum(errors) == pytest.approx(sum(expected), rel=0.05)  # five standard errors


@pytest.mark.parametrize(
    ("probability", "outcome", "message"),
    [
        ([1.4, 0.5], [FIRST, SECOND], "probability is 1.4 in comparison 0, expected from 0 to 1"),
        ([-0.1, 0.5], [FIRST, TIE], "probability is -0.1 in comparison 0"),
        ([0.5, 0.5], [FIRST, 5], "outcome is 5 in comparison 1"),
        ([], [], r"probability has shape \(0,\), expected \[C\]"),
    ],
)
def test_invalid_predictions_are_refused(probability, outcome, message):
    with pytest.raises(ValueError, match=message):
        calibrate(torch.tensor(probability), torch.tensor(outcome))


def test_certainty_that_rounding_takes_over_one_is_certainty():
    result = calibrate(torch.tensor([1 + 1e-7, -1e-7]).double(), torch.tensor([FIRST, SECOND]))
    assert result.confidence.tolist() == [1]
    assert result.log_loss.value == 0
    wrong = calibrate(torch.tensor([1.0, 0.5]), torch.tensor([SECOND, SECOND]))
    assert wrong.log_loss.value == math.inf


def test_only_ties_cannot_be_predicted():
    with pytest.raises(ValueError, match="all 3 comparisons are ties"):
        calibrate(torch.rand(3), torch.full((3,), TIE))


def test_a_prediction_is_a_mean_over_weights():
    model = BradleyTerry(LinearHead(1), flip=0.1)
    comparisons = Comparisons(torch.tensor([[2.0]]).double(), torch.tensor([[0.0]]).double())
    samples = torch.tensor([[1.0], [-0.5]]).double()
    expected = (torch.sigmoid(torch.tensor([2.0, -1.0])).mean()).item()
    assert predict(model, comparisons, samples).item() == pytest.approx(expected)
    noisy = predict(model, comparisons, samples, label_noise=True).item()
    assert noisy == pytest.approx(0.1 + 0.8 * expected)
    latent = BradleyTerry(LinearHead(1), flip=(1.0, 9.0))
    with pytest.raises(ValueError, match="a latent one"):
        predict(latent, comparisons, samples, label_noise=True)


def exact(narrower=1.0):
    """Exact posterior draws of one weight by inversion on a grid, or narrower about the mean."""

    def infer(model, comparisons, *, num_samples, seed):
        grid = torch.linspace(-6, 6, 2001, dtype=torch.float64) * model.prior_scale
        sign = 1 - 2 * comparisons.outcome.double()
        logits = sign * (grid[:, None] * comparisons.difference[:, 0])
        win = torch.nn.functional.logsigmoid(logits).sum(-1)
        cdf = (win - grid**2 / (2 * model.prior_scale**2)).softmax(0).cumsum(0)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(num_samples, generator=generator, dtype=torch.float64)
        drawn = grid[torch.searchsorted(cdf, uniform)]
        mean = (cdf.diff(prepend=cdf.new_zeros(1)) * grid).sum()
        return (mean + narrower * (drawn - mean))[:, None]

    return infer


def design(count, num_features):
    first, second = torch.randn(
        2, count, num_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return Comparisons(first, second)


def ranks(infer, count=20, num_features=1, **options):
    model = BradleyTerry(LinearHead(num_features), prior_scale=1.5)
    options = {"num_simulations": 400, "num_samples": 19, "seed": 1} | options
    return simulation_based_calibration(model, design(count, num_features), infer, **options)


def test_ranks_of_an_exact_posterior_are_uniform_and_of_a_narrow_one_are_not():
    assert ranks(exact()).p_value() > 1e-6
    narrow = ranks(exact(narrower=0.5))
    assert narrow.p_value() < 1e-12
    histogram = narrow.histogram(10)[0]
    assert histogram[0] + histogram[-1] > 2 * 2 * histogram[4:6].sum()


def prior_draws(model, comparisons, *, num_samples, seed):
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(num_samples, 1, generator=generator, dtype=torch.float64)


def test_ranks_of_a_posterior_that_is_the_prior_are_uniform_and_of_shifted_draws_at_one_end():
    """Prior draws pass (Talts et al. 2018, section 3), and a shift shows on one side."""
    assert ranks(prior_draws).p_value() > 1e-6
    high = ranks(lambda *a, **k: prior_draws(*a, **k) + 1.5).histogram(4)[0]
    assert high[0] > 2 * high[-1]


def test_ranks_of_a_quantity_with_few_values_are_uniform_for_prior_draws():
    """Sign of the weight: a rank at random among equal draws, each end of which is not uniform."""
    result = ranks(prior_draws, quantities=torch.sign, num_samples=3)
    assert result.p_value(4) > 1e-6


def test_laplace_is_calibrated_where_comparisons_are_many():
    result = ranks(
        laplace,
        count=60,
        num_features=2,
        num_simulations=40,
        quantities=lambda w: torch.cat([w, w.sum(-1, True)], -1),
    )
    assert result.rank.shape == (40, 3)
    assert result.p_value(5) > 1e-6


def test_p_values_are_those_of_a_chi_square():
    result = Ranks(torch.tensor([[0], [1], [2], [3]]).repeat(5, 1), 3)
    assert result.p_value(4) == Ranks(result.rank.repeat(1, 2), 3).p_value(4) == pytest.approx(1)
    uneven = Ranks(torch.tensor([[0]] * 10 + [[1]] * 20 + [[2]] * 10 + [[3]] * 20), 3)
    statistic = torch.tensor(4 * 25 / 15.0)  # sum (observed - 15)^2 / 15, on 3 degrees of freedom
    tail = torch.erfc((statistic / 2).sqrt())
    tail += (2 * statistic / math.pi).sqrt() * (-statistic / 2).exp()
    assert uneven.p_value(4) == pytest.approx(tail.item(), rel=1e-5)
    both = Ranks(torch.cat([uneven.rank, uneven.rank], 1), 3)
    assert both.p_value(4) == pytest.approx(2 * tail.item(), rel=1e-5)
    with pytest.raises(ValueError, match="4 ranks do not fall into 3 bins"):
        uneven.histogram(3)


def test_ranks_are_put_into_bins_of_one_size():
    every = Ranks(torch.arange(20)[:, None], 19)
    for num_bins in (1, 2, 4, 5, 10, 20):
        assert every.histogram(num_bins).tolist() == [[20 // num_bins] * num_bins]
    ends = Ranks(torch.tensor([[0, 4], [4, 5], [5, 9], [19, 10]]), 19)  # [R, Q]
    assert ends.histogram(4).tolist() == [[2, 1, 0, 1], [1, 2, 1, 0]]


def test_a_rank_is_how_many_draws_are_below_the_truth():
    """For each quantity by itself: draws at known places about a truth from a narrow prior."""
    steps = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0], dtype=torch.float64)

    def infer(model, comparisons, *, num_samples, seed):
        return torch.stack([steps, -steps], -1)

    def difference(w):
        return w[..., :1] - w[..., 1:]

    sizes = {"num_simulations": 3, "num_samples": 5}
    for quantities, rank in ((None, [3, 2]), (difference, [3])):
        model = BradleyTerry(LinearHead(2), prior_scale=1e-3)
        options = sizes | {"quantities": quantities}
        result = simulation_based_calibration(model, design(5, 2), infer, **options)
        assert result.rank.tolist() == [rank] * 3


@pytest.mark.parametrize("number", [1, 20])
def test_a_point_has_no_ranks_and_neither_have_too_many_draws(number):
    with pytest.raises(ValueError, match=rf"returned has shape \({number}, 1\) .*\(19, 1\)"):
        ranks(lambda *a, **k: torch.zeros(number, 1))

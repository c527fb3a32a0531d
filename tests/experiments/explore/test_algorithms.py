"""Page `algorithms`: gradients of the library's guides, and samplers with its guarantees."""

import math

import pytest
import torch

from experiments.explore.world import reviews
from guides import MeanField, NGram, Tabular
from inference import Enumeration
from tests.experiments.browser import FRAME

ESTIMATES = """([objective, count, draws]) => {
    const sums = cumulative(run.log);
    const { guide } = page.state;
    const of = (name, list) =>
        tableGradient(guide, run.fit.table, OBJECTIVES[name](run.log, run.problem, list));
    const rows = Array.from({ length: count }, () => of(objective,
        Array.from({ length: draws }, () => drawIndex(sums, run.uniform()))));
    const pairs = rows[0].map((_, j) => meanAndError(rows.map((row) => row[j])));
    return [pairs.map((pair) => pair[0]), pairs.map((pair) => pair[1]), of('exact')];
}"""


@pytest.fixture(scope="module")
def world():
    return reviews()


@pytest.fixture(scope="module")
def truth(world):
    return Enumeration(world.model("sentiment", 0.3), world.prompts)


def guide_of(name, world, table):
    """The library's guide with the table of the page."""
    makers = {
        "tabular": lambda: Tabular(world.prior, world.prompts),
        "n-gram": lambda: NGram(world.prior),
        "mean-field": lambda: MeanField(world.prior, world.prompts),
    }
    guide = makers[name]()
    parameter = guide.logits if name == "mean-field" else guide.table
    with torch.no_grad():
        parameter.copy_(torch.tensor(table, dtype=parameter.dtype).view(parameter.shape))
    return guide, parameter


@pytest.mark.parametrize("name", ["tabular", "n-gram", "mean-field"])
def test_guides_and_the_exact_gradient_are_those_of_the_library(open_new_page, world, truth, name):
    page = open_new_page("algorithms", f"guide={name}")
    page.value("for (let i = 0; i < 5; i++) advance()")
    guide, parameter = guide_of(name, world, page.value("run.fit.table"))
    log = torch.tensor(page.value("run.log"), dtype=torch.float64)
    assert torch.allclose(log, truth.log_guide(guide)[:, 0], rtol=0, atol=1e-6)
    assert page.value("run.kl") == pytest.approx(truth.kl_guide_posterior(guide).item(), abs=1e-6)
    (expected,) = truth.elbo_gradient(guide).values()
    gradient = page.value(
        "tableGradient(page.state.guide, run.fit.table, OBJECTIVES.exact(run.log, run.problem))"
    )
    gradient = torch.tensor(gradient, dtype=torch.float64).view(parameter.shape)
    assert torch.allclose(gradient, expected.double(), rtol=0, atol=1e-6)


def test_tabular_guide_starts_at_the_prior(open_new_page, truth):
    log = torch.tensor(open_new_page("algorithms").value("run.log"), dtype=torch.float64)
    assert torch.allclose(log, truth.log_prior[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["trace", "leave-one-out"])
def test_both_gradients_have_the_exact_mean(open_page, objective):
    page = open_page("algorithms", "guide=mean-field&constant=1")
    mean, error, exact = page.value(ESTIMATES, [objective, 3000, 8])
    for one, two, three in zip(mean, error, exact, strict=True):
        assert abs(one - three) < 4.5 * two + 1e-9


def test_constant_in_the_reward_is_noise_of_the_plain_gradient_alone(open_page):
    noise = {}
    for constant in (0, 3):
        page = open_page("algorithms", f"constant={constant}")
        page.value("for (let i = 0; i < 40; i++) advance()")
        numbers = page.numbers()
        noise[constant] = numbers["noisePlain"], numbers["noiseLeaveOneOut"]
        assert numbers["noisePlain"] > numbers["noiseLeaveOneOut"]
    assert noise[3][0] > 5 * noise[0][0]
    assert noise[3][1] == pytest.approx(noise[0][1], rel=1e-6)


def test_noise_of_leave_one_out_vanishes_at_the_posterior(open_page):
    page = open_page("algorithms", "algorithm=exact")
    page.value("while (advance());")
    numbers = page.numbers()
    assert numbers["klPosterior"] < 1e-3
    assert numbers["noiseLeaveOneOut"] < 0.1 * numbers["noisePlain"]


@pytest.mark.parametrize("objective", ["exact", "leave-one-out", "wake-phi"])
def test_objectives_reach_the_posterior_with_a_rich_guide(open_page, objective):
    page = open_page("algorithms", f"algorithm={objective}")
    page.value("while (advance());")
    assert page.numbers()["klPosterior"] < 0.02


def test_reward_alone_leaves_the_posterior(open_page):
    page = open_page("algorithms", "algorithm=reward-only")
    page.value("while (advance());")
    assert page.numbers()["klPosterior"] > 0.3


@pytest.mark.parametrize(
    "state",
    [
        "algorithm=importance",
        "algorithm=rejection",
        "algorithm=twisted-smc",
        "algorithm=twisted-smc&twist=exact&particles=8",
        "algorithm=twisted-smc&twist=none",
        "algorithm=twisted-smc&beta=0.12",
    ],
)
def test_estimate_of_z_is_unbiased(open_new_page, world, state):
    page = open_new_page("algorithms", state)
    truth = Enumeration(world.model("sentiment", page.value("page.state.beta")), world.prompts)
    page.value("while (advance());")
    numbers = page.numbers()
    assert numbers["logZ"] == pytest.approx(truth.log_z.item(), abs=1e-6)
    error = numbers["logZError"]
    assert 0 < error < 0.05
    assert abs(numbers["logZEstimate"] - truth.log_z.item()) < 4 * error
    assert numbers["klPosterior"] < 0.03


def test_metropolis_hastings_converges_to_the_posterior(open_page):
    page = open_page("algorithms", "algorithm=metropolis-hastings")
    page.value("for (let i = 0; i < 30; i++) advance()")
    early = page.numbers()["klPosterior"]
    page.value("while (advance());")
    assert page.numbers()["klPosterior"] < min(0.03, early)


def test_acceptance_of_rejection_is_z_over_the_bound(open_new_page, truth):
    page = open_new_page("algorithms", "algorithm=rejection")
    page.value("while (advance());")
    expected = math.exp(truth.log_z.item() - truth.log_likelihood.max().item())
    rate = page.value("run.accepted / run.draws")
    assert rate == pytest.approx(expected, abs=4 * math.sqrt(expected / 19200))


def test_exact_twist_leaves_no_weight_to_choose(open_page):
    """With the mean likelihood to come, weights differ by the draws of the first words alone."""
    page = open_page("algorithms", "algorithm=twisted-smc&twist=exact")
    page.value("advance()")
    shares = page.value("run.cloud.generations.map((one) => Math.max(...one.share))")
    plain = open_page("algorithms", "algorithm=twisted-smc&twist=none")
    plain.value("advance()")
    assert len(shares) == 3
    assert plain.value("run.cloud.generations[0].share[0]") == pytest.approx(1 / 64)


def test_menus_show_their_panels_and_runs_stay_on_the_chart(open_page):
    page = open_page("algorithms")
    assert page.tab.is_visible("#noise")
    page.tab.click("#step")
    page.tab.select_option("#algorithm", "twisted-smc")
    page.tab.click("#step")
    page.settle()
    assert page.tab.is_visible("#cloud circle >> nth=0")
    assert not page.tab.is_visible("#noise")
    page.tab.select_option("#algorithm", "rejection")
    page.tab.click("#step")
    page.settle()
    assert len(page.tab.query_selector_all("#recent li")) == 12
    assert len(page.tab.query_selector_all("#runs li")) == 3
    page.tab.click("#clear")
    page.settle()
    assert page.tab.query_selector_all("#runs li") == []
    page.tab.click("#play")
    page.pass_time(10 * FRAME)
    page.tab.click("#play")
    draws = page.value("run.draws")
    page.pass_time(10 * FRAME)
    assert page.value("run.draws") == draws > 300
    assert page.faults == []

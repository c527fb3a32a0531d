"""Page `wrong-target`: learned rewards, targets and errors of the library."""

import pytest
import torch

from experiments.explore.learned import SIZES, learned_reviews
from inference import Enumeration
from inference.estimate import expectation
from inference.targets.fixed_points import TARGETS, NoFixedPointError, Problem
from model.preferences import AGGREGATIONS, uncertain_model
from tests.experiments.explore.conftest import Opener

pytestmark = pytest.mark.slow
OPTIONS = {"best-of-n": {"n": 16}, "filtering": {"threshold": 0.0}}
NAMES = ("posterior", "grpo", "grpo-k3", "forward-kl", "quantile", "best-of-n", "filtering")


@pytest.fixture(scope="module")
def world():
    return learned_reviews()


@pytest.fixture(scope="module")
def new_page(chromium, new_pages):
    """One page of this processor, for tests of the numbers in many states."""
    opener = Opener(chromium, new_pages)
    yield opener("wrong-target")
    opener.close()


def numbers_in(page, **state):
    """All numbers of a page in its first state with some changes, which the page does not draw."""
    return page.value("(state) => page.numbers({...page.state, ...state})", state)


def log_of(numbers, key):
    return torch.tensor(numbers[key], dtype=torch.float64)


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize(("beta", "size"), [(0.15, 10), (0.8, 100), (4.0, 10)])
def test_target_is_that_of_the_library(new_page, world, target, beta, size):
    numbers = numbers_in(new_page, target=target, beta=beta, size=str(size))
    reward = world.posteriors[size]([f"the film was {t}".strip() for t in world.texts]).mean(0)
    problem = Problem(world.truth.log_prior, reward[:, None], beta)
    try:
        expected = TARGETS[target](problem, **OPTIONS.get(target, {}))[:, 0]
    except NoFixedPointError:
        assert not numbers["hasFixedPoint"]
        return
    assert numbers["hasFixedPoint"]
    assert torch.allclose(log_of(numbers, "target").exp(), expected.exp(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_errors_and_rewards_are_those_of_the_enumeration(new_page, world, aggregation):
    beta, size = 0.45, SIZES[1]
    numbers = numbers_in(new_page, aggregation=aggregation, beta=beta)
    model = uncertain_model(world.prior, world.posteriors[size], aggregation, beta)
    proxy, gold = (
        Enumeration(program, world.prompts) for program in (model, world.model("gold", beta))
    )
    prob = proxy.log_posterior.exp()
    kl = expectation(prob, proxy.log_posterior - gold.log_posterior).item()
    assert numbers["wrongTarget"] == pytest.approx(kl, abs=1e-6)
    assert numbers["badGuide"] == pytest.approx(0, abs=1e-9)
    assert numbers["gold"] == pytest.approx(
        expectation(prob, world.reward("gold")).item(), abs=1e-6
    )
    elbo = expectation(prob, gold.log_joint - proxy.log_posterior).item()
    assert numbers["lost"] == pytest.approx(beta * (gold.log_z.item() - elbo), abs=1e-6)


def test_lower_beta_raises_the_proxy_and_lowers_gold(open_page):
    page = open_page("wrong-target", "beta=1.2")
    before = page.numbers()
    page.set("beta", 0.3)
    after = page.numbers()
    assert after["proxy"] > before["proxy"] + 2
    assert after["gold"] < before["gold"] - 3
    assert "most: “not bad bad”" in page.tab.inner_text("#bars .rest")


def test_guide_that_stops_early_is_nearer_to_gold_than_the_optimum_of_a_wrong_target(open_page):
    page = open_page("wrong-target", "beta=0.3")
    rich = page.numbers()
    page.set("guide", "early")
    early = page.numbers()
    assert early["badGuide"] > 0.1
    assert early["both"] < rich["both"] - 1


def test_mean_field_is_an_optimum_of_its_family(open_page):
    """Coordinate ascent ends where more sweeps change nothing, below other mean fields."""
    page = open_page("wrong-target", "guide=mean-field")
    numbers = page.numbers()
    log, target = log_of(numbers, "log"), log_of(numbers, "target")
    assert log.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    more = page.value("meanFieldOf(numbers(page.state).target, numbers(page.state).target, 60)")
    more = torch.tensor(more, dtype=torch.float64)
    kl = (log.exp() * (log - target)).sum().item()
    assert kl == pytest.approx((more.exp() * (more - target)).sum().item(), abs=1e-3)
    assert numbers["badGuide"] == pytest.approx(kl, abs=1e-9)
    first = page.value("meanFieldOf(numbers(page.state).target, numbers(page.state).target, 0)")
    first = torch.tensor(first, dtype=torch.float64)
    assert kl < (first.exp() * (first - target)).sum().item()


def test_menus_show_their_sliders_and_the_table_marks_the_trainer(open_page):
    page = open_page("wrong-target")
    assert not page.tab.is_visible("#n")
    page.tab.select_option("#target", "best-of-n")
    page.settle()
    assert page.tab.is_visible("#n")
    assert "best of 16" in page.tab.inner_text("#trainers .chosen")
    page.tab.select_option("#guide", "early")
    page.settle()
    assert page.tab.is_visible("#progress")
    assert page.faults == []

"""Page `identity`: three sums that are one number, for every guide that a reader can make."""

import pytest
import torch

from experiments.explore.world import reviews
from inference import Enumeration
from inference.estimate import expectation
from inference.targets.fixed_points import TARGETS, Problem
from tests.experiments.explore.conftest import WRITTEN

STATES = [
    "strength=0",
    "strength=1.7&beta=0.2",
    "family=best-of-n&n=7",
    "family=uniform",
    "family=point&beta=0.1",
    "family=filtered",
]


@pytest.fixture(scope="module")
def world():
    return reviews()


@pytest.mark.parametrize("state", STATES)
def test_three_sums_are_the_elbo_of_the_enumeration(open_new_page, world, state):
    page = open_new_page("identity", state)
    numbers, beta = page.numbers(), page.value("page.state.beta")
    truth = Enumeration(world.model("sentiment", beta), world.prompts)
    log_guide = torch.tensor([float(v or 0) for v in numbers["log"]], dtype=torch.float64)[:, None]
    finite = torch.tensor(page.value("page.numbers(page.state).log.map(Number.isFinite)"))[:, None]
    prob = torch.where(finite, log_guide.exp(), 0.0)
    assert prob.sum().item() == pytest.approx(1.0, abs=1e-9)
    elbo = expectation(prob, truth.log_joint - log_guide).item()
    assert numbers["sums"] == pytest.approx([elbo] * 3, abs=1e-6)
    kl = expectation(prob, log_guide - truth.log_posterior).item()
    assert numbers["klPosterior"] == pytest.approx(kl, abs=1e-6)
    prior_kl = expectation(prob, log_guide - truth.log_prior).item()
    assert numbers["klPrior"] == pytest.approx(prior_kl, abs=1e-6)


def test_best_of_n_is_the_target_of_the_library(open_new_page, world):
    log = open_new_page("identity", "family=best-of-n&n=7").numbers()["log"]
    problem = Problem.of(world.model("sentiment", 0.3), world.prompts)
    expected = TARGETS["best-of-n"](problem, n=7)[:, 0]
    assert torch.allclose(torch.tensor(log, dtype=torch.float64), expected, rtol=0, atol=1e-6)


def test_bar_moves_by_keyboard_and_pointer_and_the_sums_stay_equal(open_page):
    page = open_page("identity", "strength=1")
    log_z = page.numbers()["logZ"]
    bar = page.tab.get_by_role("slider", name="q of: not good")
    bar.focus()
    for _ in range(5):
        page.tab.keyboard.press("Shift+ArrowRight")
    page.settle()
    assert float(bar.get_attribute("aria-valuenow")) == pytest.approx(51.0, abs=1)
    numbers = page.numbers()
    assert numbers["sums"] == pytest.approx([numbers["elbo"]] * 3, abs=1e-9)
    assert numbers["logZ"] == log_z
    assert numbers["klPosterior"] > 1
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    page.tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2)
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.tab.mouse.up()
    page.settle()
    assert float(bar.get_attribute("aria-valuenow")) < 3
    assert page.faults == []


def test_link_holds_dragged_bars(open_page):
    page = open_page("identity")
    page.value("drag(3, 0.7)")
    page.pass_time(WRITTEN)
    address = page.value("location.hash")
    other = open_page("identity", address.removeprefix("#"))
    assert other.numbers() == page.numbers()
    page.set("strength", 0.9)
    assert page.value("page.state.bars") == ""


def test_estimates_are_within_their_errors_and_exact_at_the_posterior(open_page):
    page = open_page("identity", "draws=4096&strength=0.5")
    numbers = page.numbers()
    estimates = page.value("estimates(page.state, page.numbers(page.state).log)")
    exact = {
        "rewardHat": numbers["reward"],
        "klPriorHat": numbers["klPrior"],
        "entropyHat": numbers["entropy"],
        "elboHat": numbers["elbo"],
    }
    for name, (mean, error) in estimates.items():
        assert abs(mean - exact[name]) < 4 * error, name
    page.set("strength", 1)
    mean, error = page.value("estimates(page.state, page.numbers(page.state).log).elboHat")
    assert mean == pytest.approx(numbers["logZ"], abs=1e-9)
    assert error < 1e-9

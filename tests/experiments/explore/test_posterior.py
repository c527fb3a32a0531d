"""Page `posterior`: the exact numbers of any beta, the two rewards, and collapse."""

import math

import pytest
import torch

from experiments.explore.world import reviews
from inference import Enumeration, entropy
from tests.experiments.browser import FRAME


@pytest.mark.parametrize("reward", ["sentiment", "says-not"])
@pytest.mark.parametrize("beta", [0.07, 0.45, 7.0])
def test_numbers_are_those_of_the_enumeration(open_new_page, reward, beta):
    world = reviews()
    truth = Enumeration(world.model(reward, beta), world.prompts)
    numbers = open_new_page("posterior", f"beta={beta}&reward={reward}").numbers()
    log = torch.tensor(numbers["log"], dtype=torch.float64)
    assert torch.allclose(log, truth.log_posterior[:, 0], rtol=0, atol=1e-6)
    assert numbers["logZ"] == pytest.approx(truth.log_z.item(), abs=1e-6)
    assert numbers["entropy"] == pytest.approx(entropy(truth.log_posterior).item(), abs=1e-6)
    prob = truth.log_posterior.exp()
    mean = (prob * truth.log_likelihood).sum().item() * beta
    assert numbers["meanReward"] == pytest.approx(mean, abs=1e-6)
    kl = (prob * (truth.log_posterior - truth.log_prior)).sum().item()
    assert numbers["klPosteriorPrior"] == pytest.approx(kl, abs=1e-6)


def test_binary_reward_shifts_the_log_odds_and_keeps_ratios(open_page):
    page = open_page("posterior", "reward=says-not&beta=0.25")
    numbers = page.numbers()
    assert numbers["shift"] == pytest.approx(4.0, abs=1e-6)
    assert numbers["ratio"] == pytest.approx(numbers["priorRatio"], abs=1e-9)
    assert page.tab.inner_text('[data-number="shift"]') == "4.000"
    page.set("reward", "sentiment")
    assert not page.tab.is_visible('[data-number="shift"]')


def test_slider_moves_bars_and_the_table(open_page):
    page = open_page("posterior")
    width = "document.querySelector('.fill.posterior').style.transform"
    before = page.value(width), page.tab.inner_text('[data-number="logZ"]')
    page.tab.focus("#beta")
    for _ in range(20):
        page.tab.keyboard.press("ArrowRight")
    page.settle()
    after = page.value(width), page.tab.inner_text('[data-number="logZ"]')
    assert page.value("page.state.beta") > 0.3
    assert before[0] != after[0]
    assert float(after[1]) < float(before[1])


def test_small_beta_collapses_onto_one_response_that_no_reviewer_writes(open_page):
    numbers = open_page("posterior", "beta=0.002").numbers()
    assert numbers["entropy"] < 1e-3
    assert numbers["meanReward"] == pytest.approx(0.8271, abs=1e-4)
    assert numbers["klPosteriorPrior"] == pytest.approx(-math.log(1.6e-9), abs=0.1)


def test_beta_sweeps_down_by_a_button(open_page):
    page = open_page("posterior", "beta=0.003")
    page.tab.click("#play")
    page.pass_time(5 * FRAME)
    assert 0.002 < page.value("page.state.beta") < 0.003
    assert page.tab.inner_text("#play") == "Stop"
    page.pass_time(40 * FRAME)
    assert page.value("page.state.beta") == 0.002
    assert page.tab.inner_text("#play") == "Lower β"
    assert page.faults == []

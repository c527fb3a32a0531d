"""Page `two-kls`: mean fields of the library, their optima, and their exact gradient."""

import itertools

import pytest
import torch

from experiments.explore.world import modes
from guides import MeanField
from inference import Enumeration
from tests.experiments.browser import FRAME

PARTS = "run.fits.{}.parts[0].words"


@pytest.fixture(scope="module")
def world():
    return modes()


@pytest.fixture(scope="module")
def truth(world):
    return Enumeration(world.model("two-modes", 0.16), world.prompts)


def mean_field(world, logits):
    guide = MeanField(world.prior, world.prompts)
    with torch.no_grad():
        guide.logits.copy_(torch.tensor(logits, dtype=guide.logits.dtype)[None])
    return guide


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("steps", [3, 400])
def test_distances_are_those_of_the_guide_of_the_library(
    open_new_page, world, truth, direction, steps
):
    page = open_new_page("two-kls")
    page.value(f"restart(); play(false); for (let i = 0; i < {steps}; i++) advance()")
    numbers = page.numbers()
    guide = mean_field(world, page.value(PARTS.format(direction)))
    expected = truth.kl_guide_posterior(guide).item(), truth.kl_posterior_guide(guide).item()
    assert numbers["step"] == steps
    assert numbers[f"{direction}Reverse"] == pytest.approx(expected[0], abs=1e-6)
    assert numbers[f"{direction}Forward"] == pytest.approx(expected[1], abs=1e-6)


def test_exact_gradient_is_that_of_the_elbo(open_new_page, world, truth):
    page = open_new_page("two-kls")
    page.value("restart(); play(false); advance()")
    guide = mean_field(world, page.value(PARTS.format("reverse")))
    expected = truth.elbo_gradient(guide)["logits"][0]
    gradient = page.value("""(() => {
        const { guide } = run.fits.reverse;
        return scoreGradient(guide, WEIGHTS.reverse(guide.log, run.logPosterior, null))[0].words;
    })()""")
    gradient = torch.tensor(gradient, dtype=expected.dtype)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-6)


def test_mean_of_the_noisy_gradient_is_the_exact_gradient(open_page):
    page = open_page("two-kls", "noise=true&draws=8")
    mean, error, exact = page.value("""(() => {
        restart(); play(false);
        for (let i = 0; i < 10; i++) advance();
        const { guide } = run.fits.reverse;
        const of = (draws) =>
            scoreGradient(guide, WEIGHTS.reverse(guide.log, run.logPosterior, draws))[0].words[0];
        const sums = cumulative(guide.log);
        const rows = Array.from({ length: 4000 }, () =>
            of(Array.from({ length: 8 }, () => drawIndex(sums, run.uniform()))));
        const pairs = rows[0].map((_, id) => meanAndError(rows.map((row) => row[id])));
        return [pairs.map((pair) => pair[0]), pairs.map((pair) => pair[1]), of(null)];
    })()""")
    for one, two, three in zip(mean, error, exact, strict=True):
        assert abs(one - three) < 4 * two + 1e-9


def test_forward_fit_has_the_words_of_the_posterior(open_new_page, truth):
    """The optimum of KL(p* || q): the marginal of each word, of the second given no end."""
    page = open_new_page("two-kls")
    page.value("finish()")
    logits = torch.tensor(page.value(PARTS.format("forward")), dtype=torch.float64)
    posterior, support = truth.log_posterior[:, 0].exp(), truth.support[:, 0]
    first = torch.zeros(10, dtype=torch.float64).index_add(0, support[:, 0], posterior)
    goes_on = posterior * (support[:, 0] != 0)
    second = torch.zeros(10, dtype=torch.float64).index_add(0, support[:, 1], goes_on)
    assert torch.allclose(logits[0].softmax(0), first, atol=0.01)
    assert torch.allclose(logits[1].softmax(0), second / second.sum(), atol=0.01)


@pytest.mark.parametrize("start", ["very good", "not bad"])
def test_reverse_fit_takes_the_mode_where_it_starts_and_forward_covers_both(open_page, start):
    page = open_page("two-kls", f"start={start.replace(' ', '%20')}")
    page.value("finish()")
    numbers = page.numbers()
    text = page.value(
        "TEXTS[run.fits.reverse.guide.log.indexOf(Math.max(...numbers().logs.reverse))]"
    )
    assert text == start
    assert numbers["reverseModes"] > 0.95
    assert numbers["reverseCrossings"] < 0.02
    assert numbers["forwardCrossings"] > 0.3
    assert numbers["forwardForward"] < numbers["reverseForward"]


def test_mixture_has_both_modes_in_both_directions(open_page):
    page = open_page("two-kls", "family=mixture")
    page.value("finish()")
    numbers = page.numbers()
    for direction in ("reverse", "forward"):
        assert numbers[f"{direction}Modes"] > 0.9
        assert numbers[f"{direction}Reverse"] < 0.2


def test_third_mode_and_noise_are_part_of_the_picture(open_page):
    page = open_page("two-kls", "modes=three-modes&noise=true")
    page.value("finish()")
    assert page.value("run.modes.length") == 3
    assert len(page.tab.query_selector_all("#heat-posterior .mode")) == 3
    assert page.tab.is_visible("#draws")
    curve = page.value("run.fits.reverse.curve.map((pair) => pair[0])")
    assert any(later > earlier + 1e-6 for earlier, later in itertools.pairwise(curve))
    assert page.faults == []


def test_buttons_pause_step_and_fit_again(open_page):
    page = open_page("two-kls")
    step = "run.fits.reverse.step"
    before = page.value(step)
    page.pass_time(10 * FRAME)
    assert page.value(step) > before + 10
    page.tab.click("#step")
    paused = page.value(step)
    page.pass_time(10 * FRAME)
    assert page.value(step) == paused
    page.tab.click("#step")
    assert page.value(step) == paused + 1
    page.tab.click("#play")
    page.pass_time(10 * FRAME)
    assert page.value(step) > paused + 10
    page.tab.click("#again")
    assert page.value(step) == 0
    assert page.value("page.state.seed") == 2
    page.pass_time(10 * FRAME)
    assert page.value(step) > 10


def test_fits_play_in_their_own_time_until_the_last_step(open_page):
    page = open_page("two-kls", own_time=True)
    page.tab.wait_for_function("run && run.fits.reverse.step === STEPS && !page.playing")
    assert page.faults == []

"""The page of the live view in a browser: it follows a run, and ends with the run."""

import math

import pytest

from tests.experiments.browser import OpenFile

pytestmark = pytest.mark.usefixtures("each_step")
MOST_LOOKS = 10_000
AGAIN = 1000
"""Milliseconds of the page's clock between two looks at the run."""


class OpenLivePage(OpenFile):
    """The page of the live view; it asks for versions of the run in its own folder."""

    def is_own(self, url):
        version = self.url.replace("live.html", "live.js")
        return super().is_own(url) or url.split("?")[0] == version

    def read(self, text):
        """Look at the run again until the line about its state has a text.

        The browser reads a version in the browser's own time, so that a look can be too early.
        """
        for _ in range(MOST_LOOKS):
            if text in self.tab.inner_text("#state"):
                return
            self.pass_time(AGAIN)
        raise AssertionError(f"no {text!r} after {MOST_LOOKS} looks")


@pytest.fixture
def open_live(chromium, live, tmp_path):
    """Function that opens the page in a window of a width and a colour scheme."""
    contexts = []

    def open_it(width=1280, scheme="light"):
        size = {"width": width, "height": 800}
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme))
        return OpenLivePage(contexts[-1], tmp_path / "live.html").open()

    yield open_it
    for context in contexts:
        context.close()


def step_of(number, **other):
    metrics = {"step": number, "elbo": 0.1 * number, "kl": 0.05 * number, "reward": 0.03 * number}
    return metrics | {"num_responses": 4 * number} | other


def test_page_follows_the_run_to_its_end(open_live, live):
    page = open_live()
    assert page.tab.title() == "A <run>"
    page.read("The first step is on its way.")
    for number in range(1, 6):
        live(step_of(number))
    page.read("Step 5: ")
    assert " left." in page.tab.inner_text("#state")
    assert 0 < page.value("document.getElementById('progress').value") <= 1
    assert page.tab.inner_text("#gap").startswith("KL(q || p*) about ")
    assert "(?)" not in page.tab.inner_text("#gap")  # of all responses
    points = "document.querySelector('#elbo .raw').getAttribute('points').split(' ').length"
    assert page.value(points) == 5
    assert page.tab.is_visible("#plane .target")
    assert page.tab.is_visible("#plane .now")
    assert len(page.tab.query_selector_all("#texts tbody tr")) == len(live._samples) > 0
    assert not page.tab.is_visible("#report")
    live(step_of(6))
    page.read("Step 6: ")
    assert page.value(points) == 6
    live.__exit__(None)
    page.read("Finished.")
    assert page.tab.locator("#report a").get_attribute("href") == "report.html"
    assert page.tab.is_visible("#report")
    assert page.value("document.getElementById('progress').value") == 1
    assert page.value("ended")
    assert page.faults == []


def test_page_says_that_a_run_is_silent(open_live, live):
    page = open_live()
    live(step_of(1))
    page.read("Step 1: ")
    page.value("for (let i = 0; i < 31; i++) show(JSON.parse(last))")
    assert "No news for half a minute" in page.tab.inner_text("#state")


def test_page_draws_a_run_without_numbers(open_live, live):
    page = open_live()
    live(step_of(1, elbo=math.nan, kl=math.inf, reward=math.nan))
    page.read("Step 1: ")
    assert page.tab.is_visible("#elbo svg")
    assert not page.tab.is_visible("#plane .now")
    assert page.faults == []


@pytest.mark.parametrize("width", [320, 768])
def test_page_is_as_wide_as_the_window(open_live, live, width):
    page = open_live(width=width)
    live(step_of(1))
    page.read("Step 1: ")
    assert page.value("document.documentElement.scrollWidth") <= width


def test_page_is_dark_where_the_system_is(open_live):
    background = "getComputedStyle(document.body).backgroundColor"
    assert open_live().value(background) != open_live(scheme="dark").value(background)

"""Properties of every page: data as committed, silent, without a network, usable by all."""

import itertools
import json
import re
from pathlib import Path

import pytest

from experiments import shared
from experiments.explore.__main__ import WORLDS
from tests.experiments.explore.conftest import FOLDER, PAGES, WRITTEN

MOST_BYTES = 200_000


def data_of(folder, world):
    """The data that a script in a folder has."""
    text = (folder / f"{world}.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const DATA = ").removesuffix(";\n"))


def numbers_of(value, place=""):
    """Leaves of nested data by their place."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in numbers_of(value[key], f"{place}.{key}").items()}
    if isinstance(value, list):
        parts = [numbers_of(item, f"{place}.{number}") for number, item in enumerate(value)]
        return {key: leaf for part in parts for key, leaf in part.items()}
    return {place: value}


def test_round_numbers_of_axes_are_those_of_the_reports():
    """The pages open without the package, and so have a copy of this function."""
    ticks = Path(shared.__path__[0], "ticks.js").read_text(encoding="utf-8")
    assert ticks in (FOLDER / "charts.js").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_committed_numbers_are_those_of_the_library(new_pages, world):
    """A prior trained on another processor has other roundings, 1e-5 nats where p0 is tiny."""
    leaves, expected = (numbers_of(data_of(folder, world)) for folder in (FOLDER, new_pages))
    assert leaves.keys() == expected.keys()
    for place, leaf in leaves.items():
        is_number = isinstance(leaf, int | float)
        assert leaf == (pytest.approx(expected[place], abs=1e-4) if is_number else expected[place])


@pytest.mark.parametrize("name", PAGES)
def test_page_is_small_and_asks_for_files_of_its_folder_alone(name):
    html = (FOLDER / f"{name}.html").read_text(encoding="utf-8")
    files = re.findall(r'(?:src|href)="([^":]+)"', html)
    text = html + "".join((FOLDER / file).read_text(encoding="utf-8") for file in files)
    assert len(text.encode()) < MOST_BYTES
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", text)


@pytest.mark.parametrize("name", PAGES)
def test_navigation_has_every_page_and_marks_the_open_one(name, open_page):
    page = open_page(name)
    links = "[...document.querySelectorAll('nav a')].map((link) => link.getAttribute('href'))"
    assert sorted(page.value(links)) == [f"{other}.html" for other in PAGES]
    assert page.tab.get_attribute("nav [aria-current=page]", "href") == f"{name}.html"


def luminance(colour):
    """Relative luminance of a colour such as #1b1f24 or #fff, by WCAG 2."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    shares = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_of_text_has_contrast_by_day_and_at_night():
    """4.5 to the background, as WCAG 2 asks of text."""
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    inks = {*re.findall(r"[{; ]color: var\(--([\w-]+)\)", style)} - {"paper", "card"}
    assert {"text", "muted", "gold-ink"} <= inks
    schemes = re.findall(r":root[^{]*\{([^}]*)\}", style)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w+)", scheme))
        for ink, ground in itertools.product(sorted(inks), ("paper", "card")):
            dark, light = sorted(luminance(colours[key]) for key in (ink, ground))
            assert (light + 0.05) / (dark + 0.05) > 4.5, (ink, ground)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_silent_and_agrees_with_the_library(name, open_page):
    page = open_page(name)
    assert page.value("page.largestDifference") < 1e-6
    page.pass_time(WRITTEN)
    assert page.faults == []


@pytest.mark.parametrize("name", PAGES)
def test_page_draws_and_writes_its_address_in_its_own_time(name, open_page):
    page = open_page(name, own_time=True)
    page.tab.wait_for_function("page.ready")
    page.value("set('beta', 0.5)")
    page.tab.wait_for_function("location.hash.includes('beta=0.5')")
    assert page.faults == []


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_window_of_any_width_and_no_label_of_an_axis_covers_another(name, open_page):
    """One window, which the reader resizes."""
    page = open_page(name)
    covering = """[...document.querySelectorAll('.axis')].flatMap((axis) => {
        const boxes = [...axis.querySelectorAll('span')].filter((span) => span.checkVisibility())
            .map((span) => span.getBoundingClientRect()).sort((a, b) => a.left - b.left);
        const isClose = (box, i) => box.left < boxes[i].right + 2;
        return boxes.slice(1).filter(isClose).map(() => axis.textContent);
    })"""
    for width in (1600, 1280, 1000, 768, 360):
        page.tab.set_viewport_size({"width": width, "height": 800})
        page.settle()
        assert page.value("innerWidth") == width
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value(covering) == [], width


@pytest.mark.parametrize("name", PAGES)
def test_every_control_has_a_name_and_is_reached_by_the_keyboard(name, open_page):
    page = open_page(name)
    unnamed = """[...document.querySelectorAll('button, input, select, [tabindex="0"]')]
        .filter((node) => node.checkVisibility())
        .filter((node) => !(node.labels?.length || node.textContent.trim() || node.ariaLabel
            || node.getAttribute('aria-labelledby')))
        .map((node) => node.outerHTML)"""
    assert page.value(unnamed) == []
    count = page.value("""[...document.querySelectorAll('a, button, input, select')]
        .filter((node) => node.checkVisibility() && !node.disabled).length""")
    reached = set()
    for _ in range(count + 40):
        page.tab.keyboard.press("Tab")
        mark = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
        reached.add(page.value(mark))
    assert len(reached) >= count


@pytest.mark.parametrize("name", PAGES)
def test_link_restores_every_control_and_reset_the_first_state(name, open_page):
    page = open_page(name)
    first = page.value("page.state")
    changed = page.value("""[...document.querySelectorAll('input[id], select[id]')].map((node) => {
        if (node.type === 'checkbox') node.checked = !node.checked;
        else if (node.type === 'range') node.value = Math.round(0.3 * node.max + 0.7 * node.min);
        else node.selectedIndex = node.options.length - 1;
        node.dispatchEvent(new Event('input', { bubbles: true }));
        return node.id;
    })""")
    assert changed
    page.pass_time(WRITTEN)
    state, address = page.value("page.state"), page.value("location.hash")
    assert {key for key in state if state[key] != first[key]} & {*changed}
    other = open_page(name, address.removeprefix("#"))
    assert other.value("page.state") == state
    shown = """[...document.querySelectorAll('main output, main select, main [type=checkbox]')]
        .map((node) => [node.value, node.checked])"""
    assert other.value(shown) == page.value(shown)
    page.tab.click("#reset")
    page.settle()
    assert page.value("page.state") == first
    assert page.faults == other.faults == []


@pytest.mark.parametrize("name", PAGES)
def test_colours_follow_the_system_and_the_switch(name, open_page):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = open_page(name), open_page(name, scheme="dark")
    colours = light.value(background), dark.value(background)
    assert colours[0] != colours[1]
    for expected in (colours[0], colours[1]):  # from auto to light to dark
        light.tab.click("#theme")
        assert light.value(background) == expected


@pytest.mark.parametrize("name", PAGES)
def test_change_is_spoken(name, open_page):
    page = open_page(name)
    assert page.value("document.getElementById('spoken').ariaLive") == "polite"
    page.focus_slider()
    before = page.value("page.state")
    page.tab.keyboard.press("ArrowLeft")
    page.pass_time(WRITTEN)
    assert page.value("page.state") != before
    assert page.value("document.getElementById('spoken').textContent.length") > 20


@pytest.mark.parametrize("name", PAGES)
def test_several_changes_between_two_frames_are_drawn_once(name, open_page):
    page = open_page(name)
    drawings = page.value("[...Array(50)].map(() => { schedule(); return page.waiting; })")
    assert drawings[0] is not None
    assert len(set(drawings)) == 1

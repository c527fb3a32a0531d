"""Pages as they lie in `docs/explore`, or as written here and now, in a headless Chromium.

The prior is trained when a page is written. On another processor its numbers differ by rounding, so
that a test against the library opens a page of the same processor.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.explore.__main__ import WORLDS
from experiments.explore.pages import PAGES, page_text
from tests.experiments.browser import OpenFile

FOLDER = Path(__file__).parents[3] / "docs" / "explore"
WRITTEN = 400
"""Milliseconds of the page's clock after which a change stands in the address and is spoken."""


class OpenPage(OpenFile):
    """A page of `docs/explore` in a browser."""

    def set(self, name: str, value: Any) -> None:
        """Change an entry of the state, and draw the page."""
        self.tab.evaluate("([name, value]) => set(name, value)", [name, value])
        self.settle()

    def focus_slider(self) -> None:
        """Focus the first visible range."""
        ranges = "[...document.querySelectorAll('main input[type=range]')]"
        self.tab.evaluate(f"{ranges}.find((range) => range.checkVisibility()).focus()")

    def numbers(self) -> dict[str, Any]:
        """All numbers of the page in its state, as computed."""
        return self.value("page.numbers(page.state)")


class Opener:
    """Opens pages in a window of a colour scheme.

    Attributes:
        path_of: function of the name of a page that returns its file.
    """

    def __init__(self, browser: Any, path_of: Callable[[str], Path]) -> None:
        self.browser, self.path_of = browser, path_of
        self.contexts: list[Any] = []

    def __call__(
        self,
        name: str,
        state: str = "",
        *,
        scheme: str = "light",
        own_time: bool = False,
    ) -> OpenPage:
        size = {"width": 1280, "height": 800}
        self.contexts.append(self.browser.new_context(viewport=size, color_scheme=scheme))
        return OpenPage(self.contexts[-1], self.path_of(name)).open(state, own_time=own_time)

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture(scope="session")
def new_path(tmp_path_factory: Any) -> Callable[[str], Path]:
    """Function of the name of a page that writes the page once, and returns its file."""
    folder = tmp_path_factory.mktemp("pages")

    @cache
    def path_of(name: str) -> Path:
        path = folder / f"{name}.html"
        path.write_text(page_text(name, WORLDS[PAGES[name].world]().data()), encoding="utf-8")
        return path

    return path_of


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Opener]:
    """Opens the pages of `docs/explore`."""
    opener = Opener(chromium, lambda name: FOLDER / f"{name}.html")
    yield opener
    opener.close()


@pytest.fixture
def open_new_page(chromium: Any, new_path: Callable[[str], Path]) -> Iterator[Opener]:
    """Opens pages that this processor wrote."""
    opener = Opener(chromium, new_path)
    yield opener
    opener.close()

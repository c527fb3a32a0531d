"""Pages of `docs/explore`, with the data that lie there or are written here and now, in Chromium.

The prior is trained when the data are written. On another processor the numbers differ by rounding,
so that a test against the library opens a page with the data of the same processor.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.explore.__main__ import Explore, main
from tests.experiments.browser import OpenFile

FOLDER = Path(__file__).parents[3] / "docs" / "explore"
PAGES = sorted(path.stem for path in FOLDER.glob("*.html"))
WRITTEN = 400
"""Milliseconds of the page's clock after which a change stands in the address and is spoken."""


class OpenPage(OpenFile):
    """A page of `docs/explore` in a browser."""

    def is_own(self, url: str) -> bool:
        return super().is_own(url) or url.startswith(self.url.rpartition("/")[0])

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
    """Opens pages of a folder in a window of a colour scheme."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.contexts: list[Any] = []

    def __call__(
        self, name: str, state: str = "", *, scheme: str = "light", own_time: bool = False
    ) -> OpenPage:
        size = {"width": 1280, "height": 800}
        self.contexts.append(self.browser.new_context(viewport=size, color_scheme=scheme))
        page = OpenPage(self.contexts[-1], self.folder / f"{name}.html")
        return page.open(state, own_time=own_time)

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture(scope="session")
def new_pages(tmp_path_factory: Any) -> Path:
    """Folder of the pages with data that this processor wrote."""
    folder = tmp_path_factory.mktemp("pages") / "explore"
    shutil.copytree(FOLDER, folder)
    assert all(finding.held for finding in main(Explore(out=folder)))
    return folder


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Opener]:
    """Opens the pages of `docs/explore`."""
    opener = Opener(chromium, FOLDER)
    yield opener
    opener.close()


@pytest.fixture
def open_new_page(chromium: Any, new_pages: Path) -> Iterator[Opener]:
    """Opens the pages with data that this processor wrote."""
    opener = Opener(chromium, new_pages)
    yield opener
    opener.close()

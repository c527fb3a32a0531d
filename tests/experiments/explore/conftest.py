"""A headless Chromium, and pages: as they lie in `docs/explore`, or as written here and now.

The clock of a page belongs to the test. Frames and timers of the page run in `pass_time` alone, so
that a result does not depend on the speed of the machine.

The prior is trained when a page is written. On another processor its numbers differ by rounding, so
that a test against the library opens a page of the same processor.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.explore.__main__ import WORLDS
from experiments.explore.pages import PAGES, page_text

FOLDER = Path(__file__).parents[3] / "docs" / "explore"
PATIENCE = 600_000.0
"""Milliseconds until a wait for the browser is given up: far more than a loaded machine needs."""
FRAME = 16
"""Milliseconds of the page's clock between two frames."""
WRITTEN = 400
"""Milliseconds of the page's clock after which a change stands in the address and is spoken."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; the tests skip if the driver or the browser is missing."""
    reason = "the extra `pages` is not installed"
    driver = pytest.importorskip("playwright.sync_api", reason=reason)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("the program `chromium` is not installed")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield browser
        browser.close()


class OpenPage:
    """A page in a browser, with all faults that it reports.

    Attributes:
        tab: the tab of the browser.
        faults: console errors, exceptions and requests.
    """

    def __init__(self, context: Any, path: Path) -> None:
        self.url = path.as_uri()
        self.faults: list[str] = []
        self.tab = context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.tab.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.tab.on("request", self._note_request)

    def _note_request(self, request: Any) -> None:
        if request.url.split("#")[0] != self.url and not request.url.startswith("data:"):
            self.faults.append(f"request: {request.url}")

    def open(self, state: str, *, own_time: bool) -> "OpenPage":
        """Load the page in a state: in its own time, or drawn, with a clock that stands."""
        if not own_time:
            self.tab.clock.install(time=0)
            self.tab.clock.pause_at(1000)
        self.tab.goto(f"{self.url}#{state}")
        if not own_time:
            self.settle()
        return self

    def set(self, name: str, value: Any) -> None:
        """Change an entry of the state, and draw the page."""
        self.tab.evaluate("([name, value]) => set(name, value)", [name, value])
        self.settle()

    def pass_time(self, milliseconds: int) -> None:
        """Move the clock of the page, and run all frames and timers that are due."""
        self.tab.clock.run_for(milliseconds)

    def settle(self) -> None:
        """Draw the page: two frames."""
        self.pass_time(2 * FRAME)

    def focus_slider(self) -> None:
        """Focus the first visible range."""
        ranges = "[...document.querySelectorAll('main input[type=range]')]"
        self.tab.evaluate(f"{ranges}.find((range) => range.checkVisibility()).focus()")

    def value(self, code: str, argument: Any = None) -> Any:
        """Value of an expression of the page's script."""
        return self.tab.evaluate(code, argument)

    def numbers(self) -> dict[str, Any]:
        """All numbers of the page in its state, as computed."""
        return self.value("page.numbers(page.state)")


class Opener:
    """Opens pages in a window of a width and a colour scheme.

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
        width: int = 1280,
        scheme: str = "light",
        own_time: bool = False,
    ) -> OpenPage:
        size = {"width": width, "height": 800}
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

"""A headless Chromium, and the pages as they lie in `docs/explore`."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "explore"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; the tests skip if the driver or the browser is missing."""
    reason = "the extra `pages` is not installed"
    driver = pytest.importorskip("playwright.sync_api", reason=reason)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("the program `chromium` is not installed")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class OpenPage:
    """A page in a browser, with all faults that it reports.

    Attributes:
        tab: the tab of the browser.
        faults: console errors, exceptions and requests.
    """

    def __init__(self, context: Any, name: str) -> None:
        self.url = (FOLDER / f"{name}.html").as_uri()
        self.faults: list[str] = []
        self.tab = context.new_page()
        self.tab.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.tab.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.tab.on("request", self._note_request)

    def _note_request(self, request: Any) -> None:
        if request.url.split("#")[0] != self.url and not request.url.startswith("data:"):
            self.faults.append(f"request: {request.url}")

    def open(self, state: str = "") -> "OpenPage":
        """Load the page in a state."""
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.url}#{state}")
        self.tab.wait_for_function("page.ready")
        return self

    def set(self, name: str, value: Any) -> None:
        """Change an entry of the state, and wait for the frame."""
        self.tab.evaluate("([name, value]) => set(name, value)", [name, value])
        self.settle()

    def settle(self) -> None:
        """Wait until the page is drawn: two frames."""
        frame = "requestAnimationFrame(() => requestAnimationFrame(resolve))"
        self.tab.evaluate(f"new Promise((resolve) => {frame})")

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


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Any]:
    """Function that opens a page by name, in a window of a width and a colour scheme."""
    contexts = []

    def opened(name: str, state: str = "", *, width: int = 1280, scheme: str = "light") -> OpenPage:
        size = {"width": width, "height": 800}
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme))
        return OpenPage(contexts[-1], name).open(state)

    yield opened
    for context in contexts:
        context.close()

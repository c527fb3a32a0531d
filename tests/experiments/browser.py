"""Pages in a browser.

The clock of a page belongs to the test. Frames and timers of the page run in `pass_time` alone, so
that a result does not depend on the speed of the machine.
"""

from pathlib import Path
from typing import Any, Self

PATIENCE = 600_000.0
"""Milliseconds until a wait for the browser is given up: far more than a loaded machine needs."""
FRAME = 16
"""Milliseconds of the page's clock between two frames."""


class OpenFile:
    """A page in a browser, opened from a file, with all faults that it reports.

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
        if not self.is_own(request.url):
            self.faults.append(f"request: {request.url}")

    def is_own(self, url: str) -> bool:
        """True if the page may ask for this address."""
        return url.split("#")[0] == self.url or url.startswith("data:")

    def open(self, state: str = "", *, own_time: bool = False) -> Self:
        """Load the page in a state: in its own time, or drawn, with a clock that stands."""
        if not own_time:
            self.tab.clock.install(time=0)
            self.tab.clock.pause_at(1000)
        self.tab.goto(f"{self.url}#{state}")
        if not own_time:
            self.settle()
        return self

    def pass_time(self, milliseconds: int) -> None:
        """Move the clock of the page, and run all frames and timers that are due."""
        self.tab.clock.run_for(milliseconds)

    def settle(self) -> None:
        """Draw the page: two frames."""
        self.pass_time(2 * FRAME)

    def value(self, code: str, argument: Any = None) -> Any:
        """Value of an expression of the page's script."""
        return self.tab.evaluate(code, argument)

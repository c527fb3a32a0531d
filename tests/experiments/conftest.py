"""A headless Chromium for all tests of pages that scripts write, and figures as SVG alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.browser import PATIENCE


@pytest.fixture(autouse=True)
def _figure_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the PNG and the PDF of each figure, which cost most of the time of a report.

    The modules that test files of figures replace this fixture.
    """
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def save_svg(figure: Figure, path: Path, **options: Any) -> None:
        if Path(path).suffix == ".svg":
            savefig(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", save_svg)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The browser; the tests skip if the driver or the browser is missing.

    The driver keeps a loop of asyncio that runs, in which tests of other packages could start none.
    """
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

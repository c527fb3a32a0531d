"""A headless Chromium, for all tests of pages that the scripts write."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.experiments.browser import PATIENCE


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

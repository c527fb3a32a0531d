"""The pages, and the data in them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.shared.pages import page_of


@dataclass(frozen=True)
class Page:
    """A page: `NAME.html` has the content, `NAME.js` the script.

    Attributes:
        title: words of the heading and of the navigation.
        world: name of the world whose data the page has.
        scripts: further scripts of the page, before its own.
    """

    title: str
    world: str
    scripts: Sequence[str] = ()


PAGES = {
    "posterior": Page("Posterior", "reviews"),
    "identity": Page("Identity", "reviews"),
    "two-kls": Page("Two KLs", "modes"),
    "algorithms": Page("Algorithms", "reviews", ("guides", "samplers")),
    "wrong-target": Page("Wrong target or bad guide", "learned", ("targets",)),
}
"""Pages by the name of their file."""


def page_text(name: str, data: Mapping[str, Any]) -> str:
    """The whole file of a page by name, with the data of its world."""
    return page_of("explore/templates/page.html", name=name, pages=PAGES, data=data)


def data_of(text: str) -> dict[str, Any]:
    """The data that a written page has."""
    pattern = r'<script type="application/json" id="data">(.*?)</script>'
    return json.loads(re.findall(pattern, text, re.DOTALL)[0])

"""Pages as text: a skeleton, with style, scripts and data inlined."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
SHARED = ("maths", "page", "charts")
"""Scripts that every page has, in this order."""


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
    page = PAGES[name]
    ticks = files("experiments.shared").joinpath("ticks.js").read_text("utf-8")
    scripts = [ticks, *(template(f"{script}.js") for script in (*SHARED, *page.scripts, name))]
    parts = {
        "title": page.title,
        "style": template("style.css"),
        "navigation": navigation(name),
        "content": template(f"{name}.html"),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "script": "\n".join(scripts),
    }
    text = template("page.html")
    for place, part in parts.items():
        text = text.replace(f"{{{{{place}}}}}", part)
    return text


def data_of(text: str) -> dict[str, Any]:
    """The data that a written page has."""
    pattern = r'<script type="application/json" id="data">(.*?)</script>'
    return json.loads(re.findall(pattern, text, re.DOTALL)[0])


def template(name: str) -> str:
    """Text of a template."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def navigation(current: str) -> str:
    """Links to all pages; the current page is marked."""
    links = []
    for name, page in PAGES.items():
        mark = ' aria-current="page"' if name == current else ""
        links.append(f'<a href="{name}.html"{mark}>{html.escape(page.title)}</a>')
    return "\n".join(links)

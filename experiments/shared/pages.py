"""Pages for the browser, by templates of Jinja. A page is one file, and every text is escaped."""

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1]


def page_of(template: str, **values: Any) -> str:
    """A page by a template in `experiments`, such as `steer/report.html`.

    Templates have two functions. `source("shared/ticks.js")` is the text of a file as it is, and
    `svg(path)` the element in an SVG file.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes time to import
    from markupsafe import Markup

    def source(path: str | Path) -> Markup:
        return Markup((FOLDER / path).read_text("utf-8"))

    def svg(path: Path) -> Markup:
        return source(path)[source(path).index("<svg") :]

    layout: dict[str, Any] = {
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
    }
    pages = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, **layout
    )
    pages.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    pages.globals |= {"source": source, "svg": svg}
    return pages.get_template(template).render(values)

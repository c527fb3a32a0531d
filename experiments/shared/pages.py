"""Pages for the browser, by templates of Jinja. A page is one file, and every text is escaped."""

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1]


def page_of(template: str, **values: Any) -> str:
    """A page by a template in `experiments`, such as `steer/report.html`.

    In a template `source("shared/ticks.js")` is the text of a file in `experiments` as it is, and
    `file(path)` the text of any file, such as a figure of a run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes time to import
    from markupsafe import Markup

    def file(path: str | Path) -> Markup:
        return Markup(Path(path).read_text("utf-8"))

    line_breaks = ("trim_blocks", "lstrip_blocks", "keep_trailing_newline")
    options: dict[str, Any] = dict.fromkeys((*line_breaks, "autoescape"), True)
    pages = Environment(loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, **options)
    pages.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    pages.globals |= {"file": file, "source": lambda path: file(FOLDER / path)}
    return pages.get_template(template).render(values)

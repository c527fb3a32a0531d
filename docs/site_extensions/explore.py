"""A page that runs in the browser, inside a page of the site: `{explore} NAME`."""

import re
import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PAGES = Path(__file__).parents[1] / "explore"


class Explore(SphinxDirective):
    """A section with the page's title, a sentence, a link to the page alone, and the page."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.env.note_dependency(PAGES / f"{name}.html")
        text = (PAGES / f"{name}.html").read_text(encoding="utf-8")
        (title,) = re.findall(r"<title>(.*?)(?: · .*)?</title>", text)
        section = nodes.section(ids=[name])
        section += nodes.title(text=title)
        section += self.parse_content_to_nodes()
        link = f'<p><a href="explore/{name}.html" target="_blank">Open the page alone</a></p>'
        frame = f'<iframe class="explore" loading="lazy" src="explore/{name}.html" title="{title}">'
        section += nodes.raw(text=f"{link}\n{frame}</iframe>", format="html")
        return [section]


def copy_pages(app: Sphinx, error: Exception | None) -> None:
    """Copy the pages beside the built page that shows them."""
    if error is None and app.builder.format == "html":
        shutil.copytree(PAGES, Path(app.outdir) / "docs" / "explore", dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("explore", Explore)
    app.connect("build-finished", copy_pages)
    return {"parallel_read_safe": True}

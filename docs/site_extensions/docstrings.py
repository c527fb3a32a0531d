"""Docstrings for autodoc: reStructuredText, with a directive for equations in plain text."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from site_extensions.equations import table
from site_extensions.markup import restructured


class Equations(SphinxDirective):
    """Equations in plain text, one on each line."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.raw(text=table("\n".join(self.content)), format="html")]


def _process(
    app: Sphinx, kind: str, name: str, value: object, options: Any, lines: list[str]
) -> None:
    lines[:] = restructured(lines)


def _dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Write the two hyphens between an argument and its description as a dash."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("equations", Equations)
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("doctree-read", _dashes)
    return {"parallel_read_safe": True}

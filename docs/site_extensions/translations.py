"""The table of translations of the README with its columns exchanged: `{translations}`."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

README = Path(__file__).parents[2] / "README.md"


class Translations(SphinxDirective):
    """Rows of the table under the heading Translations, sorted by the term of this project."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(README)
        section = README.read_text(encoding="utf-8").partition("## Translations\n")[2]
        table = re.findall(r"^\| (.*) \| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)
        (theirs, ours), *rows = table
        rows.sort(key=lambda row: row[1].replace("`", "").casefold())
        lines = [f"| {ours} | {theirs} |", "|---|---|", *(f"| {b} | {a} |" for a, b in rows)]
        text = "\n".join(lines).replace("](inference/", "](../inference/")
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("translations", Translations)
    return {"parallel_read_safe": True}

"""Directives that list entries of a registry, scripts of the experiments, and lessons."""

import ast
import re
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from site_extensions.markup import escaped, restructured

ROOT = Path(__file__).parents[2]


class Registry(SphinxDirective):
    """Names and summaries of a registry: `.. registry:: inference.OBJECTIVES`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        lines = [".. list-table::", "   :class: registry", ""]
        for key, entry in getattr(import_module(module), name).items():
            about = getattr(entry, "summary", None) or (entry.__doc__ or "").split("\n")[0]
            lines += [f"   * - ``{key}``", f"     - {escaped(about)}"]
        return self.parse_text_to_nodes("\n".join(lines))


class Scripts(SphinxDirective):
    """A section for each script, which holds the docstring of the script."""

    def run(self) -> list[nodes.Node]:
        folder = ROOT / "experiments"
        files = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
        files |= {path.parent.name: path for path in folder.glob("*/__main__.py")}
        lines = []
        for name in sorted(files):
            self.env.note_dependency(files[name])
            text = ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) or ""
            lines += [f"``{name}``", "-" * (len(name) + 4), "", *restructured(text.split("\n")), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Lessons(SphinxDirective):
    """Title and claim of each lesson, from its file, and pages beside the lessons: `{lessons}`."""

    def run(self) -> list[nodes.Node]:
        lines, folder = [], ROOT / "docs" / "lessons"
        for path in sorted(folder.glob("lesson_*.py")):
            self.env.note_dependency(path)
            text = path.read_text(encoding="utf-8")
            (title,) = re.findall(r'app_title="(.*?)"', text)
            claim = " ".join(re.findall(r"\*\*Claim\.\*\* (.*?)\n\n", text, re.DOTALL)).split()
            sentences = re.sub(r"[^.]*:$", "", " ".join(claim))  # a formula would follow the colon
            lines += [f"**{title}** (`{path.name}`)", "", sentences, ""]
        if pages := [f"lessons/{path.stem}" for path in sorted(folder.glob("*.md"))]:
            lines += ["```{toctree}", "", *pages, "```"]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("lessons", Lessons)
    app.add_directive("registry", Registry)
    app.add_directive("scripts", Scripts)
    return {"parallel_read_safe": True}

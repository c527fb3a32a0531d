"""The reference of the public names of packages, file by file: `.. face:: PACKAGE PACKAGE`."""

import inspect
from importlib import import_module

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from site_extensions.markup import escaped


class Face(SphinxDirective):
    """A table of the names, then a section for each file: its docstring and its public names.

    The first package is the face. The names of the further packages follow in their own files.
    """

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        names: dict[str, str] = {}
        for package in self.arguments:
            names = {**public_names(package), **names}
        lines = [".. list-table::", "   :class: face", ""]
        for name in sorted(names, key=str.casefold):
            about = inspect.getdoc(getattr(import_module(names[name]), name)) or ""
            lines += [f"   * - :py:obj:`~{names[name]}.{name}`"]
            lines += [f"     - {escaped(about.split(chr(10))[0])}"]
        for module in sorted(set(names.values())):
            title = module.replace(".", "/")
            lines += ["", title, "-" * len(title), "", f".. automodule:: {module}", ""]
            for name in (name for name in names if names[name] == module):
                is_class = inspect.isclass(getattr(import_module(module), name))
                directive = ["autoclass", "   :members:"] if is_class else ["autofunction", ""]
                lines += [f".. {directive[0]}:: {module}.{name}", directive[1], ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def public_names(package: str) -> dict[str, str]:
    """Classes and functions that a package exports, with the module that defines each.

    Functions in the file of the package itself only build entries of the package's registry.
    """
    members = vars(import_module(package)).items()
    root = package.partition(".")[0]
    names = {
        name: value.__module__
        for name, value in members
        if inspect.isclass(value) or (inspect.isfunction(value) and value.__module__ != package)
    }
    return {name: module for name, module in names.items() if module.partition(".")[0] == root}


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("face", Face)
    return {"parallel_read_safe": True}

"""Sphinx configuration: the pages of `docs/` and the READMEs, with the root as source folder.

    make docs    # writes docs/_build/html/index.html

The READMEs are chapters as they are, so that every relative link of theirs resolves here as on a
code host. Nothing is fetched: equations are MathML, search runs in the browser.
"""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

project = "elbo-rl"
author = "the authors of elbo-rl"
html_title = "elbo-rl"
root_doc = "docs/index"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_extensions.docstrings",
    "site_extensions.explore",
    "site_extensions.face",
    "site_extensions.mathml",
    "site_extensions.registries",
    "site_extensions.translations",
]
include_patterns = [
    "*.md",
    "*/README.md",
    "inference/*/README.md",
    "model/film_reviews/README.md",
    "docs/**",
]
exclude_patterns = [".*", "**/.*", "build", "dist", "runs", "tests", "docs/_build"]

myst_enable_extensions = ["amsmath", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
add_module_names = False
default_role = "code"
smartquotes = False
highlight_language = "text"
napoleon_use_ivar = True
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_search_scorer = str(DOCS / "search_scorer.js")
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5fa5", "color-brand-content": "#0b5fa5"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ff", "color-brand-content": "#7cc4ff"},
}
copybutton_exclude = ".linenos, .gp"

FIRST = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'


def write_first_page(app: Sphinx, error: Exception | None) -> None:
    """Write the page at the root of the site, which leads to the start."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(FIRST, encoding="utf-8")


def resolve_folder(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement
) -> nodes.TextElement | None:
    """Leave a link to a folder as plain text: a site has no page for a folder."""
    target = ROOT / Path(node.get("refdoc", "")).parent / node.get("reftarget", "")
    return content if node.get("reftype") == "myst" and target.is_dir() else None


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", resolve_folder)
    app.connect("build-finished", write_first_page)

"""Check pages, programs and commands of the documents without building the site.

`make docs` builds the site with warnings as errors.
"""

import re
import shlex
from html import unescape
from importlib import import_module
from pathlib import Path

import pytest

from experiments.shared.command_line import _parse
from tests.experiments.scripts import FILES, arguments_of
from tests.readmes import READMES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOWTOS = sorted((DOCS / "howto").glob("*.md"))
PAGES = [*HOWTOS, DOCS / "faq.md"]
OTHERS = [*READMES, ROOT / "CONTRIBUTING.md", DOCS / "scaling.md", DOCS / "faq.md"]
SCRIPTS = sorted(FILES.values())


def id_of(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def commands(path):
    """Words of each command that runs a script, without commands that read an earlier run."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    lines = re.findall(r"^    (?:python|torchrun .*?) -m experiments\.(\w+)(.*)$", text, re.M)
    of_runs = re.compile(r"\bRUN\b|\bruns/|\bKEY\b")
    return [
        (name, shlex.split(words, comments=True))
        for name, words in lines
        if not of_runs.search(words)
    ]


@pytest.mark.parametrize("path", HOWTOS, ids=id_of)
def test_programs_of_a_how_to_run(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    programs = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert programs or path.stem == "scale"
    for program in programs:
        exec(program, {})
    assert "nan" not in capsys.readouterr().out.split()


@pytest.mark.parametrize("path", [*HOWTOS, *OTHERS, *SCRIPTS], ids=id_of)
def test_commands_of_a_document_and_of_a_script_are_accepted(path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():  # as torchrun sets
        monkeypatch.setenv(name, value)
    for name, words in commands(path):
        if name != "minimal":
            _parse(words, arguments_of(name))


@pytest.mark.parametrize("path", PAGES, ids=id_of)
def test_options_in_the_text_of_a_page_exist(path):
    """Options in backticks, of `steer` or of a script named in a command of the page."""
    text = path.read_text(encoding="utf-8")
    names = {"steer", *(name for name, _ in commands(path))}
    options = {
        "--" + field.replace("_", "-")
        for name in names
        for field in arguments_of(name).__dataclass_fields__
    }
    named = set(re.findall(r"`(--[a-z-]+)[^`]*`", text))
    assert named - options == set()


def test_every_page_is_two_clicks_from_the_first():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")]
    pages += [f"api/{path.stem}" for path in (DOCS / "api").glob("*.rst")]
    folders = ("_build/", "lessons/")  # `lessons.md` lists the pages of its folder
    linked = re.findall(r"^(?:.*<)?(/?[\w/]+)>?$", text, re.MULTILINE)
    missing = {page for page in pages if not page.startswith(folders)} - {"index", *linked}
    assert missing == set()


@pytest.mark.parametrize(
    "question",
    ["How do I add my reward?", "Why is my KL negative?", "Which guide for 1B parameters?"],
)
def test_questions_of_a_newcomer_are_linked_from_the_first_page(question):
    first, answers = ((DOCS / name).read_text(encoding="utf-8") for name in ("index.md", "faq.md"))
    (anchor,) = re.findall(re.escape(f"[{question}](faq.md#") + r"([\w-]+)\)", first)
    assert f"\n| [{question}](#{anchor}) |\n" in answers
    assert f"\n### {question}\n" in answers


def test_every_answer_is_linked_from_the_top_of_its_page():
    text = (DOCS / "faq.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[(.*)\]\(#.*\) \|$", text.replace(r"\|", "|"), re.M)
    assert linked == re.findall(r"^### (.*)$", text, re.M)


def test_every_figure_stands_in_the_gallery():
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    pictures = [*DOCS.glob("*.svg"), *(DOCS / "gallery").glob("*.svg")]
    shown = set(re.findall(r"^!\[.{20,}\]\((.*)\)$", text, re.M))
    assert shown == {path.relative_to(DOCS).as_posix() for path in pictures}
    assert text.count("\n`python -m experiments.") == text.count("\n## ")


def test_every_page_that_runs_in_a_browser_is_shown():
    names = {path.stem for path in (DOCS / "explore").glob("*.html")}
    text = (DOCS / "explore.md").read_text(encoding="utf-8")
    assert set(re.findall(r"```\{explore\} (\S+)", text)) == names


@pytest.fixture
def extensions(monkeypatch):
    """Modules of the site that need no Sphinx, by name."""
    monkeypatch.syspath_prepend(DOCS)
    return lambda name: import_module(f"site_extensions.{name}")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("KL(q || p*)", "KL(<i>q</i> ∥ <i>p</i><sup>*</sup>)"),
        ("p0(x) >= 0", "<i>p</i><sub>0</sub>(<i>x</i>) ≥ 0"),
        ("sum_k w_k^2", "∑<sub><i>k</i></sub> <i>w</i><sub><i>k</i></sub><sup>2</sup>"),
        ("q(x_<t)", "<i>q</i>(<i>x</i><sub>&lt;<i>t</i></sub>)"),
        ("log_likelihood", "<code>log_likelihood</code>"),
        ("m: `a_b` of p", "<i>m</i>: <code>a_b</code> of <i>p</i>"),
    ],
)
def test_equations_are_typeset(extensions, text, html):
    assert extensions("equations").typeset(text) == html


def test_no_character_of_an_equation_is_lost(extensions):
    text = "loss  = -1/K sum_k min(rho_k A_k, 1) <= e^(-t w)    a note"
    letters = re.sub(r"<.*?>", "", unescape(extensions("equations").table(text)))
    assert re.sub(r"\s", "", letters) == "loss=−1/K∑kmin(ρkAk,1)≤e−twanote"


def test_docstrings_become_code_equations_and_escaped_prose(extensions):
    lines = ["Draws of p*, `[K, N]`.", "", "    w = p0(x) / q(x)", "", "    f(1)", "", "Args:"]
    markup = extensions("markup").restructured([*lines, "    a: b_ of |x|."])
    assert markup[0] == r"Draws of p\*, ``[K, N]``."
    assert ".. code-block:: python" in markup
    assert markup[-1] == r"    a: b\_ of \|x\|."

"""Mechanical part of the house style, over all code, tests and documents.

Lines of code have at most 100 characters too, which ruff checks (E501).
"""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import ismodule, signature
from pathlib import Path

import pytest

import inference
from guides import GUIDES
from inference import DIVERGENCES, OBJECTIVES, REWARD_INFERENCE, SAMPLERS, direct_preferences
from inference.direct_preferences import LIKELIHOODS, LINKS
from inference.kl_estimators import KL_ESTIMATORS
from inference.objectives.grpo import GRPO
from inference.objectives.parts.surrogates import SURROGATES
from inference.samplers.resampling import RESAMPLING
from inference.svi.trackers import TRACKERS
from inference.targets.fixed_points import TARGETS
from model import AGGREGATIONS
from model.registry import FACTORS, REWARDS
from tests.experiments.scripts import NAMES
from tests.readmes import READMES

ROOT = Path(__file__).parents[1]
CODE = [
    path
    for folder in ("model", "guides", "inference", "experiments", "tests", "docs/lessons")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
CLAIMS = sorted((ROOT / "experiments" / "papers").glob("*.yaml"))
DOCUMENTS = [
    *CLAIMS,
    *READMES,
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]

FORBIDDEN = re.compile(r"\W*(What|Of|That|As|How|Where|Whether)\b", re.IGNORECASE)
Z = re.compile(
    r"(log[ -]|model )evidence|evidence lower bound|evidence \(E\)|\*evidence\* means Z",
    re.IGNORECASE,
)


def place(path: Path, line: int, text: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {text}"


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string that stands alone: docstrings, and those below attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


def first_words() -> Iterator[str]:
    """Docstrings and descriptions of arguments and attributes with a forbidden first word."""
    for path in CODE:
        for line, text in docstrings(path):
            sections = re.split(r"^ *(?:Args|Attributes):\n", text, flags=re.MULTILINE)
            entries = [entry for section in sections[1:] for entry in described(section)]
            for first in [text.strip().split("\n")[0], *entries]:
                if FORBIDDEN.match(first):
                    yield place(path, line, first)


def described(section: str) -> list[str]:
    """Descriptions `name: description` of a section, up to the blank line that ends the section."""
    block = section.split("\n\n")[0]
    indent = len(block) - len(block.lstrip(" "))
    return re.findall(rf"^ {{{indent}}}[*`\w, ]+: (.*)", block, re.MULTILINE)


def long_lines() -> Iterator[str]:
    """Lines of prose in documents above 100 characters; a table or a picture may be longer."""
    for path in DOCUMENTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > 100 and not line.startswith(("|", "!")) and " " in line:
                yield place(path, number, line)


def evidence() -> Iterator[str]:
    """Uses of the word evidence for anything but Z."""
    for path in {*CODE, *DOCUMENTS} - {Path(__file__)}:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "evidence" in Z.sub("", line).lower():
                yield place(path, number, line)


def test_first_words_are_nouns_or_imperatives():
    assert list(first_words()) == []


def test_documents_have_lines_of_at_most_100_characters():
    assert list(long_lines()) == []


def test_evidence_means_the_normalising_constant():
    assert list(evidence()) == []


def test_variables_are_nouns():
    names = {"asked", "found", "kept", "made", "said", "there", "told", "wanted"}
    faults = [
        place(path, node.lineno, node.id)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id in names
    ]
    assert faults == []


@pytest.mark.parametrize("registry", [GUIDES, OBJECTIVES, SAMPLERS, REWARD_INFERENCE, REWARDS])
def test_summaries_are_noun_phrases(registry):
    summaries = [entry.summary for entry in registry.values()]
    assert [summary for summary in summaries if FORBIDDEN.match(summary)] == []


@pytest.mark.parametrize("folder", ["model", "guides", "inference", "experiments", "tests"])
def test_nouns_are_repeated(folder):
    """In docstrings, `what` at most once in 1,000 words, `it` and `its` at most ten times."""
    texts = [
        text for path in CODE if path.is_relative_to(ROOT / folder) for _, text in docstrings(path)
    ]
    words = re.findall(r"[a-z']+", " ".join(texts).lower())
    assert words.count("what") <= len(words) / 1_000
    assert words.count("it") + words.count("its") <= len(words) / 100


def test_docstrings_have_the_words_of_the_field():
    """Distribution in place of law, supports in place of bears, requested in place of asked for."""
    other = re.compile(r"\b(laws?|bears?|borne|asked for)\b", re.IGNORECASE)
    faults = [
        place(path, line, text)
        for path in CODE
        if path != Path(__file__)
        for line, text in docstrings(path)
        if other.search(text)
    ]
    assert faults == []


def test_first_words_are_read_in_every_place(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""A."""\nx = 1\n"""B."""\ndef f():\n    """C.\n\n    Args:\n        a: D."""\n'
    )
    texts = [text for _, text in docstrings(path)]
    assert sorted(text[0] for text in texts) == ["A", "B", "C"]
    assert described(texts[-1].partition("Args:\n")[2]) == ["D."]


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("guides", GUIDES),
        ("inference/objectives", OBJECTIVES),
        ("inference/samplers", SAMPLERS),
        ("inference/svi", TRACKERS),
        ("inference/reward_posterior", REWARD_INFERENCE),
        ("inference/diagnostics", KL_ESTIMATORS),
        ("inference/objectives", DIVERGENCES),
        ("inference/objectives", SURROGATES),
        ("inference/targets", TARGETS),
        ("inference/direct_preferences", LIKELIHOODS),
        ("inference/direct_preferences", LINKS),
        ("inference/samplers", RESAMPLING),
        ("model", AGGREGATIONS),
        ("model", REWARDS),
        ("model", FACTORS),
        ("experiments", NAMES),
    ],
)
def test_every_registered_name_stands_in_the_readme_of_its_folder(folder, names):
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert [name for name in names if f"\n| `{name}`" not in text] == []


@pytest.mark.parametrize("folder", ["shared", "steer"])
def test_every_file_of_shared_and_steer_stands_in_the_readme_of_the_scripts(folder):
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in (ROOT / "experiments" / folder).glob("*.py")]
    assert [file for file in files if f"`{file}`" not in text] == ["__init__.py"]


def test_table_of_objectives_agrees_with_the_registry():
    text = (ROOT / "inference/objectives/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|.*\| (supports|refuses) \|$", text, re.MULTILINE)
    supports = {name: entry.supports_hard_constraints for name, entry in OBJECTIVES.items()}
    assert {name: word == "supports" for name, word in rows if name in supports} == supports


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_named_in_a_document_exist(path):
    files = set(re.findall(r"`([\w/]+\.py)`", path.read_text(encoding="utf-8")))
    missing = [file for file in files if not list(path.parent.rglob(file))]
    assert [file for file in missing if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_document_lead_to_files(path):
    links = re.findall(r"\]\((?!http)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_picture_stands_in_a_document():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    pictures = [path.name for path in (ROOT / "docs").glob("*.svg")]
    assert [name for name in pictures if f"docs/{name})" not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_a_document_exist(path):
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = set(re.findall(r"`(?:\w+\.)*(\w+)(?:\(.*?\))?`", prose))
    texts = [each.read_text(encoding="utf-8") for each in (*CODE, *CLAIMS)]
    words = set(re.findall(r"\w+", " ".join(texts)))
    elsewhere = {"avx2", "avx512", "dot"}  # kernels of torch, and a program
    if path.name == "trl.md":
        elsewhere |= options(path.read_text(encoding="utf-8"))
    assert sorted(names - words - elsewhere) == []


def options(text):
    """Names of other trainers' options: headings, and the first column of tables."""
    cells = re.findall(r"^(?:## .*|\|[^|]*\|)", text, flags=re.MULTILINE)
    code = " ".join(re.findall(r"`.*?`", "".join(cells)))
    return set(re.findall(r"\b(?:[a-z]\w*|\w+Config)\b", code))


def test_options_of_trl_are_in_its_source():
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("TRL is not installed")
    files = Path(spec.origin).parent.rglob("*.py")
    words = set(re.findall(r"\w+", " ".join(each.read_text() for each in files)))
    page = (ROOT / "docs" / "howto" / "trl.md").read_text(encoding="utf-8")
    names = options(page.partition("## verl")[0])
    assert len(names) > 50
    assert sorted(names - words - {"vllm_"}) == []


def test_choices_beside_other_trainers_options_exist():
    """Every value in the second column is one that GRPO, or a `PreferenceProgram`, takes."""
    page = (ROOT / "docs" / "howto" / "trl.md").read_text(encoding="utf-8")
    choices = []
    for cell in re.findall(r"^\|[^|]*\|([^|]*)\|", page, flags=re.MULTILINE):
        name = None
        for key, value in re.findall(r'`(?:(\w+)=)?("[\w-]+"|[\d.]+|None)`', cell):
            name = key or name
            choices.append((name, ast.literal_eval(value)))
        choices += [(None, call) for call in re.findall(r"`([a-z_]+)\(\w+", cell)]
    grpo = signature(GRPO).parameters
    assert len([name for name, _ in choices if name in grpo]) > 40
    for name, value in choices:
        if name in grpo:
            GRPO(**{"scale": "none", name: value})
        elif name == "link":
            assert value in LINKS
        elif name not in ("per_token", "quantile_beta"):
            assert value in LIKELIHOODS or hasattr(direct_preferences, value), (name, value)
    objectives = set(re.findall(r"objectives? `([\w+-]+)`", page))
    assert len(objectives) > 2
    assert objectives <= OBJECTIVES.keys()


def test_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 9_000


def test_face_of_inference_is_small():
    names = [name for name, value in vars(inference).items() if not ismodule(value)]
    assert len([name for name in names if not name.startswith("_")]) <= 35


def test_shared_code_of_the_scripts_is_small():
    """At most 18 files, and 1,450 lines, a third of which measure: costs, gradients, distances."""
    files = list((ROOT / "experiments" / "shared").rglob("*.py"))
    assert len(files) <= 18
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in files) <= 1_450

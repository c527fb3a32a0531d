"""Run the lessons without a browser, and the solutions of their exercises."""

import re
import runpy
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
import torch

LESSONS = Path(__file__).parents[1] / "docs" / "lessons"
NAMES = sorted(path.stem for path in LESSONS.glob("lesson_*.py"))

pytest.importorskip("marimo", reason="marimo is absent: install the extra `lessons`")


@pytest.fixture(autouse=True)
def _lessons_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(LESSONS))


def with_python_numbers(answer):
    """The answer, which returns the `item` of a tensor of one number."""

    def item(*args):
        value = answer(*args)
        is_number = isinstance(value, torch.Tensor) and not value.dim() and not value.requires_grad
        return value.item() if is_number else value

    return item


def in_single_precision(answer):
    """The answer, as a student computes it in the default type of torch."""

    def rounded(*args):
        return torch.as_tensor(answer(*args)).float()

    return rounded


def without_a_sum(answer):
    """Three numbers for each number of the answer."""

    def thrice(*args):
        return torch.stack([torch.as_tensor(answer(*args))] * 3)

    return thrice


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_lesson_runs_and_its_exercises_take_the_solutions_alone(name):
    from classroom import UNEXPECTED, checked

    solutions = runpy.run_path(str(LESSONS / "solutions" / f"{name}.py"))
    for package in solutions.get("NEEDS", ()):
        if find_spec(package) is None:
            pytest.skip(f"{name}: {package} is absent: `make smollm2`")
    UNEXPECTED.clear()
    variables = runpy.run_path(str(LESSONS / f"{name}.py"))["app"].run()[1]
    assert UNEXPECTED == []
    checks = {key: check for key, check in variables.items() if key.startswith("check_")}
    assert checks.keys() == solutions["ANSWERS"].keys() == solutions["WRONG"].keys()
    for exercise, check in checks.items():
        answer = solutions["ANSWERS"][exercise]
        checked(answer, check)
        checked(with_python_numbers(answer), check)
        checked(in_single_precision(answer), check)
        with pytest.raises(AssertionError):
            checked(without_a_sum(answer), check)
        assert solutions["WRONG"][exercise]
        for wrong in solutions["WRONG"][exercise]:
            with pytest.raises(AssertionError):
                checked(wrong, check)
        with pytest.raises(AssertionError, match="is a `return` missing"):
            checked(lambda *args: None, check)
        with pytest.raises(AssertionError, match="expected a function"):
            checked(3.0, check)


def test_figures_of_lessons_have_the_style_of_all_figures():
    from classroom import bars, curves

    texts, shares = ["good", "dull"], {"prior": torch.tensor([0.5, 0.5])}
    for figure in (bars(texts, shares, "Two"), curves([0, 1], {"ELBO": [0, 1]}, xlabel="step")):
        (axes,) = figure.axes
        assert axes.yaxis.label.get_fontsize() == 13
        assert not axes.spines["top"].get_visible()


@pytest.mark.slow
def test_lessons_follow_the_rules_of_notebooks():
    from marimo._cli.cli import main

    with pytest.raises(SystemExit) as end:
        main(["check", "--strict", *(str(LESSONS / f"{name}.py") for name in NAMES)])
    assert end.value.code == 0


def test_a_table_notes_the_numbers_that_were_not_expected():
    from classroom import UNEXPECTED, About, table

    UNEXPECTED.clear()
    rows = [["a", 1.0, 1.01], ["b", 1.0, 1.2], ["c", 1.0, About(1.2)], ["d", 1.0, About(2)]]
    table(["quantity", "value", "expected output"], *rows, ["e", 1.0, ""])
    assert UNEXPECTED == ["1.0000, expected 1.2000", "1.0000, expected about 2"]
    UNEXPECTED.clear()


def test_names_have_their_own_colours_and_no_colour_twice():
    from classroom import OWN_COLOURS, colours_of

    colours = colours_of(["posterior", "a", "prior", "b"])
    assert colours[::2] == [OWN_COLOURS["posterior"], OWN_COLOURS["prior"]]
    assert len(set(colours)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_emphasis_in_the_prose_is_on_single_words(name):
    """The asterisks of two p* in a paragraph would be markup without a backslash."""
    import marimo

    source = (LESSONS / f"{name}.py").read_text(encoding="utf-8")
    cells = re.findall(r'mo\.md\(r"""(.*?)"""\)', source, re.DOTALL)
    assert cells
    for cell in cells:
        for emphasis in re.findall(r"<em>(.*?)</em>", marimo.md(dedent(cell)).text, re.DOTALL):
            assert emphasis.isalpha()


@pytest.mark.slow
def test_lesson_9_stops_where_smollm2_is_absent(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    variables = runpy.run_path(str(LESSONS / "lesson_9.py"))["app"].run()[1]
    assert "truth" not in variables

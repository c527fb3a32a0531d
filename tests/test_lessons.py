"""Run the lessons without a browser, and the solutions of their exercises."""

import runpy
from pathlib import Path

import pytest

LESSONS = Path(__file__).parents[1] / "docs" / "lessons"
NAMES = sorted(path.stem for path in LESSONS.glob("lesson_*.py"))

pytest.importorskip("marimo", reason="marimo is absent: install the extra `lessons`")


@pytest.fixture(autouse=True)
def _lessons_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(LESSONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_lesson_runs_and_its_exercises_take_the_solutions_alone(name):
    from classroom import UNEXPECTED

    UNEXPECTED.clear()
    variables = runpy.run_path(str(LESSONS / f"{name}.py"))["app"].run()[1]
    assert UNEXPECTED == []
    solutions = runpy.run_path(str(LESSONS / "solutions" / f"{name}.py"))
    checks = {key: check for key, check in variables.items() if key.startswith("check_")}
    assert checks.keys() == solutions["ANSWERS"].keys() == solutions["WRONG"].keys()
    for exercise, check in checks.items():
        check(solutions["ANSWERS"][exercise])
        assert solutions["WRONG"][exercise]
        for answer in solutions["WRONG"][exercise]:
            with pytest.raises(AssertionError):
                check(answer)


@pytest.mark.slow
def test_lessons_follow_the_rules_of_notebooks():
    from marimo._cli.cli import main

    with pytest.raises(SystemExit) as end:
        main(["check", "--strict", *(str(LESSONS / f"{name}.py") for name in NAMES)])
    assert end.value.code == 0

"""Budgets of `steer`: steps, responses or time, and the sentences of the fit in the report."""

import pytest

from experiments.shared.command_line import run_script
from experiments.steer.__main__ import fit_notes
from experiments.steer.arguments import Steer
from experiments.steer.checks import check
from experiments.steer.durations import seconds_of
from inference import Fit


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1.5m", 90)]
)
def test_a_duration_has_a_unit(text, seconds):
    assert seconds_of(text) == seconds
    assert Steer(time=text).fit_budget == {"max_seconds": seconds}


@pytest.mark.parametrize("text", ["90", "-5m", "0s", "1d", "", "5 m", "nans"])
def test_other_durations_are_refused(text):
    with pytest.raises(SystemExit, match=r"--time .* is no duration: .* as in 90s, 5m or 1h"):
        Steer(time=text)


def test_the_default_budget_is_a_number_of_steps():
    assert Steer().fit_budget == {"num_steps": 150}
    assert Steer(responses=640).fit_budget == {"num_responses": 640}
    assert "640 responses" in Steer(responses=640).title
    assert "90s" in Steer(time="90s").title


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3", "--time", "90s"], "--steps has no effect with --responses or --time"),
        (["--responses", "99", "--time", "90s"], "--responses has no effect with --time"),
        (["--responses", "63"], "--responses 63 is less than the 64 responses of one step"),
        (["--time", "9s", "--learning-rate", "1e-3"], "--learning-rate falls to 0 at the last"),
    ],
)
def test_contradictory_budgets_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(lambda args: check(args), Steer, words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_sentences_of_a_fit():
    result = Fit(None, {}, stopped_early="step 3: a", at_noise="step 9: b", warnings=["step 2: c"])
    assert fit_notes(result) == [
        "Stopped early at step 3: a",
        "Ended before its budget: step 9: b",
        "Warning: step 2: c",
    ]
    assert fit_notes(Fit(None, {})) == []

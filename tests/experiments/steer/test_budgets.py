"""Budgets of `steer`: steps, responses or time, and the sentences of the fit in the report."""

from dataclasses import replace

import pytest

from experiments.steer.arguments import Steer
from experiments.steer.durations import seconds_of
from experiments.steer.training import fit_notes
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
    best = Steer(sample="best-of-n")
    titles = [each.target_name for each in (best, replace(best, factor=("length",)))]
    assert titles == ["vader", "vader times length, beta 0.1"]


def test_sentences_of_a_fit():
    result = Fit(None, {}, stopped_early="step 3: a", at_noise="step 9: b", warnings=["step 2: c"])
    assert fit_notes(result) == [
        "Stopped early at step 3: a",
        "Ended before its budget: step 9: b",
        "Warning: step 2: c",
    ]
    assert fit_notes(Fit(None, {})) == []

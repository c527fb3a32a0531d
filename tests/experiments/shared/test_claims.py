"""Findings and their limits."""

import ast
import math

import pytest

from experiments.shared.claims import Finding, conclude, within
from experiments.shared.early_stops import early_stops
from tests.experiments.scripts import FILES, returned_by


@pytest.mark.parametrize(
    ("values", "limits", "held"),
    [
        ([0.1, 0.2], {"below": 0.3}, True),
        ([0.1, 0.3], {"below": 0.3}, False),
        ([0.4, 0.3], {"above": 0.3}, False),
        ([0.4], {"above": 0.3, "below": 0.5}, True),
        ([0.1, math.nan], {"below": 0.3}, False),
        ([math.nan, 0.4], {"above": 0.3}, False),
    ],
)
def test_a_finding_holds_if_all_values_are_strictly_within_the_limits(values, limits, held):
    assert within("share", *values, **limits).held is held


def test_a_finding_states_values_and_limits():
    finding = within("share", 0.123, 2.0, above=0.1, below=3)
    assert finding.statement == "share: 0.12 and 2 (above 0.1, below 3)"


def test_the_report_has_claim_source_tables_findings_and_verdict(capsys):
    doc = "Title.\n\nClaim: all is\nwell.\nSource: a book.\nPrinted: a table.\n"
    conclude(doc, ["table"], [Finding("it is so", True)])
    assert capsys.readouterr().out == (
        "Claim: all is\nwell.\nSource: a book.\n\ntable\n\nyes  it is so\n\n"
        "The claim held: 1 of 1 findings.\n"
    )


def test_no_claim_holds_on_a_guide_that_was_not_trained(capsys):
    stop = "FineTuned: stopped early at step 3"
    with early_stops() as stops:
        stops.append(stop)
        findings = conclude("", [], [Finding("it is so", True)])
    assert findings == [Finding("it is so", True), Finding(stop, False)]
    verdict = f"The claim did NOT hold, 1 of 2 findings failed: {stop}."
    assert capsys.readouterr().out.rstrip().endswith(verdict)


def test_every_claim_script_states_claim_source_and_what_is_printed():
    for name, path in FILES.items():
        text = path.read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(text)) or ""
        if "\nClaim: " in doc or "conclude(__doc__" in text:
            assert "(__doc__" in text, name
            places = [doc.find(part) for part in ("\nClaim: ", "\nSource: ", "\nPrinted")]
            assert -1 not in places, name
            assert places == sorted(places), name


def test_every_script_with_a_verdict_returns_its_findings():
    """A claim that did not hold is exit code 1, also for `papers`, which runs the script."""
    judging = [name for name, path in FILES.items() if "conclude(" in path.read_text("utf-8")]
    assert len(judging) >= 15
    assert {name: returned_by(name) for name in judging} == dict.fromkeys(judging, list[Finding])

"""Collapse on text: the metrics of a guide, and findings that fail where the claim does."""

import pytest

from experiments.collapse_text import CollapseText, findings_of, main
from experiments.shared.tables import summary
from experiments.shared.training import PENALISED, PURE


def held(pure, penalised):
    def metrics(distinct, kl):
        return summary([{"distinct-2": distinct, "KL(q||p0)": kl}])

    runs = {"prior": metrics(0.9, 0.0), PURE: metrics(*pure), PENALISED: metrics(*penalised)}
    return [finding.held for finding in findings_of(runs)]


def test_findings_fail_where_the_claim_does():
    assert held(pure=(0.1, 100.0), penalised=(0.8, 5.0)) == [True, True, True]
    assert held(pure=(0.5, 100.0), penalised=(0.4, 50.0)) == [False, False, False]


@pytest.mark.slow
def test_script(capsys):
    findings = main(CollapseText(steps=1, particles=4, draws=64))
    assert [finding.held for finding in findings[:2]] == [False, True], "one step collapses nothing"
    printed = capsys.readouterr().out
    assert "KL(q||p0)" in printed
    assert "did NOT hold" in printed

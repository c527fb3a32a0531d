"""The identity holds, in value and in gradient, and the checks see a difference."""

import pytest

from experiments.equivalence.__main__ import Equivalence, identity_errors, main, sentiment
from experiments.equivalence.gradient import reinforce_error


@pytest.mark.slow
def test_every_check_holds(capsys):
    findings = main(Equivalence(samples=4, threads=1))
    assert len(findings) == 7
    assert all(finding.held for finding in findings), findings
    assert "The claim held: 7 of 7 findings." in capsys.readouterr().out


def test_checks_see_a_wrong_beta(prior, prompts, monkeypatch):
    """The errors are of order 1 if the reward is divided by another beta than the RL side's."""
    model = sentiment(prior, 0.3)
    assert max(identity_errors(model, prompts.texts)) < 1e-10
    assert reinforce_error(model, prompts, 2) < 1e-6
    monkeypatch.setattr(type(model), "beta", 0.6)
    assert identity_errors(model, prompts.texts)[1] > 0.1
    assert reinforce_error(model, prompts, 2) > 0.1

"""The cost of a step, as it is printed."""

import pytest

from experiments.step_cost import StepCost, main


@pytest.mark.parametrize(("most", "held"), [(0.0, False), (1e9, True)])
def test_ratios_to_trace(most, held, capsys, monkeypatch):
    monkeypatch.setattr("experiments.step_cost.MOST", most)
    args = StepCost(world="eight-tokens", only=("reward-to-go",), rounds=2, warm_up=1)
    assert [finding.held for finding in main(args)] == [held]
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert rows["trace"].endswith(" 1.00")
    assert "reward-to-go" in rows


def test_without_the_objective_of_the_claim_the_claim_is_not_tested(capsys):
    assert main(StepCost(world="eight-tokens", only=("renyi",), rounds=1, warm_up=0)) == []
    assert capsys.readouterr().out.endswith("The claim was not tested: the options leave it out.\n")

"""The cost of a step, as it is printed."""

import pytest
import torch

from experiments.shared.cost import ratio_of_means
from experiments.step_cost import StepCost, main


@pytest.mark.parametrize(("most", "held"), [(0.0, False), (1e9, True)])
def test_ratios_to_trace(most, held, capsys, monkeypatch):
    monkeypatch.setattr("experiments.step_cost.MOST", most)
    args = StepCost(world="eight-tokens", only=("reward-to-go",), rounds=2, warm_up=1)
    assert [finding.held for finding in main(args)] == [held]
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert rows["trace"].endswith(" 1 ± 0")
    assert "reward-to-go" in rows


def test_ratio_of_means_has_the_error_that_many_repeats_have():
    """Times of 12 rounds with a common load; the error is over 2,000 repeats of the rounds."""
    torch.manual_seed(0)
    load = torch.rand(2000, 12).double() + 1
    ours, theirs = (load * scale + 0.3 * torch.rand(2000, 12) for scale in (3.0, 2.0))
    estimates = [ratio_of_means(*map(list, pair)) for pair in zip(ours, theirs, strict=True)]
    values, errors = torch.tensor(estimates, dtype=torch.float64).T
    torch.testing.assert_close(values.std(), errors.mean(), rtol=0.1, atol=0)


def test_without_the_objective_of_the_claim_the_claim_is_not_tested(capsys):
    assert main(StepCost(world="eight-tokens", only=("renyi",), rounds=1, warm_up=0)) == []
    assert capsys.readouterr().out.endswith("The claim was not tested: the options leave it out.\n")

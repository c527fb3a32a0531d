"""The cost of a step, as it is printed."""

from experiments.step_cost import StepCost, main


def test_ratios_to_trace(capsys):
    ratios = main(StepCost(world="eight-tokens", only=("reward-to-go",), rounds=2, warm_up=1))
    assert ratios.keys() == {"trace", "reward-to-go"}
    assert ratios["trace"] == 1
    assert "reward-to-go" in capsys.readouterr().out

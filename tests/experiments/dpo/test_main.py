"""Optimum of DPO in rich and poor families, exact."""

from experiments.dpo.__main__ import DPO, INFERENCE, KL, RICH, judged, main
from experiments.dpo.worlds import World


def test_rich_guide_reaches_the_posterior_by_dpo_and_poor_ones_do_not(capsys):
    findings = main(DPO(numbers=(50,), seeds=1))
    assert len(findings) == 4
    assert all(finding.held for finding in findings)
    printed = capsys.readouterr().out
    assert "mean-field, preferences without end" in printed
    assert "50 preferences" in printed


def test_population_is_all_preferences_of_the_judge():
    world = World.of(0.1)
    pairs = world.population()
    assert pairs.weight.sum().item() < 1  # the share of the first of two draws that wins
    assert abs(pairs.weight.sum().item() - 0.5) < 1e-9
    sampled, comparisons = world.preferences(4000, seed=0)
    assert len(sampled) == len(comparisons.first) == 4000
    first = (comparisons.outcome == 0).double().mean().item()
    assert abs(first - 0.5) < 0.04


def test_findings_need_the_posterior_in_the_rich_family_and_a_gap_in_the_others():
    near = {
        INFERENCE: {KL: 0.0},
        "dpo": {KL: 0.0},
        "exo": {KL: 0.1},
        "ipo": {KL: 0.1},
        "kto": {KL: 0.1},
    }
    assert [f.held for f in judged({RICH: near, "poor": near})] == [True, True, False]
    far = near | {"dpo": {KL: 0.5}}
    assert [f.held for f in judged({RICH: far, "poor": far})] == [False, True, True]

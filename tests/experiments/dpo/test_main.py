"""Optimum of DPO in rich and poor families, exact."""

import json

import pytest

from experiments.dpo.__main__ import DPO, INFERENCE, KL, judged, main
from experiments.dpo.worlds import RICH, World
from model.preferences import Preference, write_preferences


def test_rich_guide_reaches_the_posterior_by_dpo_and_poor_ones_do_not(capsys):
    findings = main(DPO(numbers=(50,), seeds=1, steps=100, pairs=8))
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
    near = {name: {KL: 0.0} for name in (INFERENCE, "dpo")}
    near |= {name: {KL: 0.1} for name in ("exo", "ipo", "kto")}
    assert [f.held for f in judged({RICH: near, "poor": near})] == [True, True, False]
    far = near | {"dpo": {KL: 0.5}}
    assert [f.held for f in judged({RICH: far, "poor": far})] == [False, True, True]


def test_preferences_of_a_file_train_by_both_ways(tmp_path, capsys):
    """Held-out preferences follow the first word, which the reward and both guides learn."""
    good, bad = (" great .", " good .", " fine .", " fun ."), (" bad .", " dull .", " awful .")
    pairs = [Preference("The film was", better, worse) for better in good for worse in bad]
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    path = str(tmp_path / "pairs.jsonl")
    sizes = {"steps": 12, "pairs": 4, "samples": 8, "max_new_tokens": 4, "held_out": 0.3}
    assert main(DPO(preferences=path, beta=0.3, learning_rate=2e-3, **sizes)) == []
    printed, bars = capsys.readouterr()
    assert "8 preferences, 4 held out, beta 0.3" in printed
    assert "loss=" in bars  # of DPO
    assert "elbo=" in bars  # of SVI
    rows = {line.split("  ")[0]: line for line in printed.splitlines()[2:]}
    assert rows.keys() == {"reward alone", "dpo", "reward first, then SVI"}
    for row in rows.values():
        accuracy = float(row.split("±")[0].split()[-1])
        assert accuracy > 0.7
    unreliable = "of 16 draws of prior and guide effective, fewer than 30"
    assert all(unreliable in rows[name] for name in ("dpo", "reward first, then SVI"))
    with pytest.raises(SystemExit, match=r"--preferences: .*column 'question' is missing"):
        main(DPO(preferences=path, prompt_column="question"))
    with pytest.raises(SystemExit, match="--guide fixed has nothing to train"):
        main(DPO(preferences=path, guide="fixed"))
    with pytest.raises(SystemExit, match=r"--preferences: .*pairs.jsonl, line \d+: the response"):
        main(DPO(preferences=path, max_new_tokens=1))
    too_long = Preference("The film was" + " very" * 200, " good .", " bad .")
    write_preferences(tmp_path / "pairs.jsonl", [*pairs, too_long])
    with pytest.raises(SystemExit, match=r"--preferences: .*pairs.jsonl, line 13: the prompt has"):
        main(DPO(preferences=path, **sizes))


def test_ties_of_a_file_are_learned_from_and_a_file_of_ties_alone_is_refused(tmp_path, capsys):
    pairs = [Preference("The film was", " good .", f" bad {i} .", i % 2 == 0) for i in range(8)]
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    path, sizes = str(tmp_path / "pairs.jsonl"), {"steps": 1, "pairs": 4, "samples": 8}
    assert main(DPO(preferences=path, held_out=0.4, **sizes)) == []
    assert "5 preferences, 3 held out" in capsys.readouterr().out
    write_preferences(tmp_path / "pairs.jsonl", pairs[::2])
    with pytest.raises(SystemExit, match="--preferences: all 1 held-out preferences are ties"):
        main(DPO(preferences=path, **sizes))


def test_rankings_of_a_file_train_by_both_ways(tmp_path, capsys):
    """The scores follow the first word; a held-out list is six pairs."""
    words = {" great .": 3, " good .": 2, " dull .": 1, " awful .": 0}
    rows = [
        {"question": f"The {noun} was", "responses": [*words], "scores": [*words.values()]}
        for noun in ("film", "plot", "acting", "story")
    ]
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"steps": 8, "pairs": 2, "samples": 8, "max_new_tokens": 4, "held_out": 0.5}
    args = DPO(preferences=str(path), prompt_column="question", **sizes)
    assert main(args) == []
    printed = capsys.readouterr().out
    assert "2 rankings, 12 pairs held out" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("reward alone")]
    assert float(row.split("±")[0].split()[-1]) > 0.8
    path.write_text(json.dumps(rows[0] | {"scores": [1, 2]}) + "\n")
    with pytest.raises(SystemExit, match=r"--preferences: .*line 1: 4 responses and 2 scores"):
        main(args)

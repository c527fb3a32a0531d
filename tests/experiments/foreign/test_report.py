"""Findings, tables and figure of runs whose numbers are known."""

import math
from dataclasses import replace

import pytest

from experiments.foreign.design import Cell
from experiments.foreign.findings import by_share, findings, is_above
from experiments.foreign.records import Run, ratio
from experiments.foreign.report import strip_figure, tables, write_markdown
from inference import Estimate

CELL = Cell("random-gpt2", "12", "0.1", "words", "lora", "leave-one-out")


def ended(start, end, error=0.1, **levels):
    """A run from a KL(p0 || p*) to a KL(q || p*), nats."""
    after = {"log_z": Estimate(0.0, 0.0), "elbo": Estimate(-end, 0.0)}
    after |= {"kl_guide_posterior": Estimate(end, error), "entropy": Estimate(20.0, 0.1)}
    after |= {"posterior_log_ratio": Estimate(0.5, error)}
    prior = {"elbo": Estimate(-start, error), "entropy": Estimate(20.0, 0.1)}
    before, warnings = {"elbo": Estimate(-end - 1.0, 0.0)}, ["3 effective draws"] * (error >= 1)
    return Run(CELL._replace(**levels), 0, 40, prior, before, after, warnings, (1.0, 2.0))


def test_claim_holds_for_runs_that_come_close():
    runs = [ended(3.0, 0.5), ended(2.0, 0.6), ended(0.1, 0.25), ended(20.0, 15.0)]
    assert [held for _, held in findings(runs)] == [True] * 3
    statement = findings(runs)[2].statement
    assert "median share left of 2 runs that start between 1 and 6 nats: 23%" in statement
    assert "the worst of all over 1 nat is 75%, random-gpt2, 12, beta 0.1" in statement


def test_a_rise_by_more_than_noise_fails_for_the_reverse_kl_alone():
    high = ended(2.0, 2.3)
    assert is_above(high.rise)
    assert not is_above(ended(2.0, 2.15).rise)
    for value in (math.nan, math.inf, 1.0, -1.0):
        assert is_above(Estimate(value, math.nan))
    assert not is_above(Estimate(-math.inf, math.nan))
    runs = [ended(2.0, 0.2), ended(2.0, 0.3), high]
    risen = findings(runs)[1]
    assert not risen.held
    assert risen.statement.startswith("1 of 3 runs")
    assert ", 0 of them above the untrained guide: by up to 0.300 ± 0.100 nats" in risen.statement
    assert high.name in risen.statement
    forward = replace(high, cell=high.cell._replace(objective="forward-kl"))
    assert findings([*runs[:2], forward])[1].held


def test_large_shares_and_refused_runs_fail():
    assert not findings([ended(2.0, 0.8)])[2].held
    assert findings([ended(2.0, 0.7)])[2].held
    assert not findings([ended(0.5, 0.1)])[2].held  # no run in the range
    refused, risen, _ = findings([ended(2.0, 0.1), Run(CELL, 1, 40, note="the guide is NaN")])
    assert not refused.held
    assert "seed 1: the guide is NaN" in refused.statement
    assert risen.held


def test_an_unknown_number_is_the_worst_wherever_its_run_stands():
    """NaN compares as False with all numbers, so that a sort leaves it, and others, in between."""
    ends = (3.0, math.nan, 2.5, 5.0)
    runs = [ended(2.0, end, guide=f"guide-{n}") for n, end in enumerate(ends)]
    _, risen, share = findings(runs)
    assert "by up to nan nats" in str(risen)
    assert "guide-1" in str(risen)
    assert "guide-1" in str(share)
    assert [run.share_left.value for run in by_share(runs)[1:]] == [2.5, 1.5, 1.25]


@pytest.mark.parametrize("end", [0.5, 3.0, math.nan])
def test_tables_have_levels_and_the_worst_run(end, tmp_path):
    runs = [ended(2.0, end), ended(2.0, 0.4, guide="prefix"), Run(CELL, 1, 40, note="refused")]
    by_level, worst, seconds = tables(runs)
    assert "guide prefix" in by_level
    assert "guide twisted" not in by_level
    assert runs[1].name in worst
    assert seconds == "CPU minutes: 0.0 of fits, 0.1 in all"
    write_markdown(runs, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines() if line} == {8, 10}
    assert strip_figure(runs).axes


def test_ratio_of_estimates():
    assert ratio(Estimate(1.0, 0.3), Estimate(2.0, 0.8)) == (0.5, pytest.approx(0.25))
    assert math.isnan(ratio(Estimate(1.0, 0.1), Estimate(0.0, 0.1)).value)


def test_unreliable_numbers_are_marked_and_counted():
    by_level, worst, _ = tables([ended(2.0, 0.5), ended(2.0, 4.0, error=1.5, guide="prefix")])
    first = next(line for line in by_level.splitlines() if line.startswith("all"))
    assert first.split()[-1] == "1"
    assert "200%?" in worst
    assert "25%" in worst
    assert "25%?" not in worst

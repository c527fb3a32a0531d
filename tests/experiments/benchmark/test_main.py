"""Tables of the benchmark. No speed is asserted."""

from dataclasses import replace

from experiments.benchmark import real_model, startup
from experiments.benchmark.__main__ import run
from experiments.benchmark.real_model import Cost, Job, measure, report_real_model
from experiments.benchmark.report import BY_HAND, OURS
from experiments.benchmark.trl_trainer import TRL
from model.prior.grammar import untrained_prior
from tests.experiments.benchmark.test_steps import SMALL


def test_prints_both_tables():
    printed = run(SMALL, with_trl=False)
    rows = {line[:17].strip(): line[17:].split() for line in printed.splitlines()}
    assert all(float(seconds) > 0 for seconds in rows[OURS][:2])
    assert rows[BY_HAND][3::3] == ["±", "±", "0.97"]
    assert "make bench" in printed
    for part in ("sampling", "scoring, guide", "scoring, prior", "backward", "optimiser"):
        ours, _, by_hand, _ = rows[part]
        assert float(ours) > 0
        assert float(by_hand) > 0


def test_a_start_is_a_multiple_of_the_imports_that_no_script_avoids(monkeypatch):
    seconds = iter([1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 2.0, 3.0, 6.0])  # the first round is not timed
    monkeypatch.setattr(startup, "cpu_seconds", lambda _: next(seconds))
    rows = {line[:32].strip(): line[32:].split() for line in startup.report_startup(2).splitlines()}
    cells = {name.split("  ")[0]: row for name, row in rows.items()}
    assert cells["import model"] == ["3.00", "1.5", "±", "0", "<=", "1.3"]
    assert cells["steer --help"] == ["5.00", "2.5", "±", "0.5", "<=", "1.6"]


def test_a_new_process_takes_cpu_time():
    assert 0 < startup.cpu_seconds(["-c", "sum(range(100_000))"]) < 10


def test_the_step_of_a_real_model_is_measured(monkeypatch):
    monkeypatch.setattr(real_model, "PROMPT", "")
    prior = untrained_prior(8, SMALL.tokens, initializer_range=0.02, seed=0)
    monkeypatch.setattr(real_model, "new_prior", lambda _: prior)
    cost = measure(Job(OURS, replace(SMALL, warm_up=1)))
    assert len(cost.seconds) == SMALL.rounds
    assert min(cost.seconds) > 0
    assert cost.peak > 100  # MB
    assert sum(cost.parts.values()) > 0


def test_a_real_model_is_compared_in_time_and_memory(monkeypatch):
    costs = {
        OURS: Cost([9.0, 1.0, 2.0], 300.0, {"sampling": 0.5}),
        TRL: Cost([9.0, 9.0, 6.0], 400.0, {}),
    }
    monkeypatch.setattr(real_model, "run_all", lambda _, jobs, workers: [costs[jobs[0].name]])
    printed = report_real_model(replace(SMALL, smollm2=(16, 64)), with_trl=True)
    [row, _] = [line.split() for line in printed.splitlines() if line.startswith(TRL)]
    assert row[2:] == ["8.00", "400", "0.5", "±", "0.3", "0.75", "<=", "0.38"]
    assert "32 responses of 64 tokens" in printed

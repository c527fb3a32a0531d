"""Tables of the benchmark. No speed is asserted."""

from experiments.benchmark.__main__ import run
from experiments.benchmark.report import BY_HAND, OURS
from tests.experiments.benchmark.test_steps import SMALL


def test_prints_both_tables():
    printed = run(SMALL, with_trl=False)
    rows = {line[:17].strip(): line[17:].split() for line in printed.splitlines()}
    assert all(float(seconds) > 0 for seconds in rows[OURS][:2])
    assert len(rows[BY_HAND]) == 6
    assert rows[BY_HAND][-2:] == ["<=", "1.05"]
    assert "make bench" in printed
    for part in ("sampling", "scoring, guide", "scoring, prior", "backward", "optimiser"):
        ours, _, by_hand, _ = rows[part]
        assert float(ours) > 0
        assert float(by_hand) > 0

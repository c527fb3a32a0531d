"""The identity, as the script shows it."""

import pytest

from experiments.equivalence import Equivalence, main


@pytest.mark.slow
def test_everything_holds(capsys):
    checks = main(Equivalence(samples=4, threads=1))
    assert len(checks) == 7
    for check in checks:
        assert check.error <= check.tolerance, check
    assert "FAILS" not in capsys.readouterr().out

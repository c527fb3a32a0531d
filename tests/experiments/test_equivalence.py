"""The identity, as the script shows it."""

from experiments import equivalence
from experiments.equivalence import Equivalence, main


def test_everything_holds(tmp_path, capsys):
    checks = main(Equivalence(samples=4, collapse_steps=60, threads=1, out=tmp_path))
    assert len(checks) == 7
    for check in checks:
        assert check.error <= check.tolerance, check
    assert (tmp_path / "collapse.svg").is_file()
    assert "FAILS" not in capsys.readouterr().out


def test_penalty_keeps_the_entropy_that_pure_reward_loses(prior):
    curves = equivalence.run_collapse(prior, Equivalence(collapse_steps=60))
    pure, penalised, posterior = curves.values()
    assert pure.entropy[-1] < 0.3
    assert pure.mode_prob > 0.9
    assert abs(penalised.entropy[-1] - posterior.entropy[-1]) < 0.1

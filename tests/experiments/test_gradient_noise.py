"""Token-level gradients against leave-one-out on the embedded prior."""

import pytest

from experiments.gradient_noise import GradientNoise, main


@pytest.mark.slow
def test_leave_one_out_has_no_noise_at_the_posterior_and_more_away_from_it(capsys):
    noise = main(GradientNoise(lengths=(6,), particles=8, gradients=6))
    at, away = noise["posterior, T = 6"], noise["away, T = 6"]
    assert at["leave-one-out"] == pytest.approx(0, abs=1e-4 * at["reward-to-go"])
    assert at["analytic-kl"] > 0.1 * away["analytic-kl"]
    assert away["analytic-kl"] < away["leave-one-out"]
    assert "leave-one-out" in capsys.readouterr().out

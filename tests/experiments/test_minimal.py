"""The minimal script: 40 lines, no options, and a distance to the posterior that falls."""

from pathlib import Path

import pytest

from experiments import minimal


def test_distance_to_the_posterior_falls_and_is_log_z_minus_the_elbo(capsys):
    minimal.main(num_steps=20)
    first, *steps = [line.split() for line in capsys.readouterr().out.splitlines()]
    log_z = float(first[2])
    elbos, divergences = zip(*((float(words[3]), float(words[-2])) for words in steps), strict=True)
    assert divergences[-1] < 0.3 * divergences[0]
    for elbo, divergence in zip(elbos, divergences, strict=True):
        assert elbo + divergence == pytest.approx(log_z, abs=2e-3)


def test_script_has_at_most_forty_lines():
    assert len(Path(minimal.__file__).read_text().splitlines()) <= 40

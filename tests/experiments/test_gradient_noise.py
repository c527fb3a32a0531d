"""Token-level gradients against leave-one-out on the embedded prior."""

import pytest
import torch

from experiments.gradient_noise import (
    OBJECTIVES,
    GradientNoise,
    list_findings,
    main,
    sum_of_variances,
)
from inference import Estimate


@pytest.mark.slow
def test_leave_one_out_has_no_noise_at_the_posterior(capsys):
    """Four gradients are too few to see the gain away from the posterior."""
    finding, _ = main(GradientNoise(lengths=(6,), particles=4, gradients=4))
    assert finding.held
    assert "0 ± 0" in capsys.readouterr().out


def test_a_token_level_gradient_must_gain_more_than_noise():
    row = dict.fromkeys(OBJECTIVES, Estimate(10.0, 1.0))
    still = row | {"leave-one-out": Estimate(0.0, 0.0)}
    quiet = row | {"analytic-kl": Estimate(5.0, 1.0)}
    for away, held in ((row, False), (quiet, True)):
        findings = list_findings({"prior, T = 6": away, "posterior, T = 6": still})
        assert [finding.held for finding in findings] == [True, held]


def test_noise_is_the_sum_of_variances():
    """Normal gradients of 50 parameters with variances 0.5 to 25."""
    torch.manual_seed(0)
    scale = (torch.arange(1.0, 51.0) / 2).sqrt()
    noise = sum_of_variances(7 + scale * torch.randn(50) for _ in range(2000))
    assert noise.value == pytest.approx(scale.square().sum().item(), abs=4 * noise.standard_error)
    exact = scale.square().square().sum().mul(2 / 1000).sqrt().item()
    assert noise.standard_error == pytest.approx(exact, rel=0.2)

"""Bias, noise and targets of the choices of log Z, against draws and against the closed form."""

import pytest
import torch
from torch.testing import assert_close

from experiments.log_z import (
    AT_TARGET,
    BIAS,
    KL,
    LogZ,
    choices,
    fixed,
    gradient,
    judged,
    main,
    measured,
    minimum,
    world,
)
from inference.targets.fixed_points.squared_residual import squared_residual


def test_claim_holds(capsys):
    assert len(main(LogZ())) == 4
    assert "The claim held: 4 of 4 findings" in capsys.readouterr().out
    rows = measured(LogZ())
    assert len(rows) == 7
    biased = rows | {"other": {BIAS: 0.1, AT_TARGET: 1.0, KL: 1e-6}}
    assert [finding.held for finding in judged(biased)] == [False, True, True, False]


@pytest.mark.parametrize("beta", [0.03, 2.0])
def test_claim_holds_at_the_ends_of_the_range_of_beta(beta):
    assert all(finding.held for finding in main(LogZ(beta=beta)))
    for outside in (0.5 * beta, 2 * beta):
        if not 0.03 <= outside <= 2:
            with pytest.raises(
                SystemExit, match=r"--beta is .*outside, the differences are rounding"
            ):
                LogZ(beta=outside)


@pytest.mark.parametrize("size", [2, 4])
def test_noise_is_the_deviation_of_drawn_gradients(size):
    problem = world(0.5, 0)
    log_prior = problem.log_prior[:, 0]
    for name, choice in choices(problem, LogZ()).items():
        if choice.spread:
            continue
        log_joint = log_prior + choice.log_reward
        mean, noise = gradient(choice, log_prior, log_joint, size)
        generator = torch.Generator().manual_seed(0)
        draws = log_prior.exp().multinomial(size * 40_000, True, generator=generator).view(-1, size)
        log_weight = (log_joint - log_prior)[draws]
        score = torch.eye(len(log_prior)).double()[draws] - log_prior.exp()
        if choice.shares is None:
            constant = choice.constant(log_prior.exp(), log_joint - log_prior)
        elif "ring" in name:
            constant = (log_weight.roll(1, 1) + log_weight.roll(-1, 1)) / 2
        else:
            constant = (log_weight.sum(1, keepdim=True) - log_weight) / (size - 1)
        sampled = -((log_weight - constant)[..., None] * score).mean(1)
        assert_close(sampled.mean(0), mean, rtol=0, atol=0.02), name
        drawn = (sampled - mean).square().sum(-1).mean().sqrt().item()
        assert drawn == pytest.approx(noise, rel=0.02), name


def test_minimum_with_a_wrong_constant_is_the_closed_form():
    problem = world(0.5, 0)
    choice = next(iter(choices(problem, LogZ()).values()))
    log_prior = problem.log_prior[:, 0]
    for constant in (-1.0, 0.0, 0.5):
        wrong = choice._replace(constant=fixed(torch.tensor(constant)))
        log_q = minimum(wrong, log_prior, log_prior + choice.log_reward)
        assert_close(log_q, squared_residual(problem, constant)[:, 0], rtol=0, atol=1e-6)

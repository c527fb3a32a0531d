"""Best of n: the exact values are of order statistics, the measured values agree."""

import math

import pytest
import torch

from experiments.best_of_n import __main__ as script
from experiments.best_of_n.__main__ import BestOfN, findings_of, main, measured_findings
from experiments.best_of_n.best import Best, exact_best, measured_best
from inference import Estimate, PriorSample
from inference.order_statistics import best_of_n_kl_bound, best_of_n_win_rate_bound


@pytest.fixture
def sample():
    """Four responses, two of them with the same reward."""
    prob = torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)
    reward = torch.tensor([[0.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    return PriorSample(torch.arange(4).view(4, 1, 1), prob.log(), reward, exact=True)


def test_the_best_of_two_by_hand(sample):
    """The best of two draws is a 0 if both are, and a 2 unless none is."""
    best = exact_best(sample, 2)
    zero, two = 0.4**2, 1 - 0.9**2
    levels = torch.tensor([zero, 1 - zero - two, two], dtype=torch.float64)
    prior = torch.tensor([0.4, 0.5, 0.1], dtype=torch.float64)
    kl = (levels * (levels / prior).log()).sum().item()
    assert best.reward_exact == pytest.approx((1 - zero - two) + 2 * two, abs=1e-12)
    assert best.kl_exact == pytest.approx(kl, abs=1e-12)
    assert best.frontier == pytest.approx(sample.frontier_at(kl), abs=1e-12)
    gain, most = best.reward_exact - 0.7, best.frontier - 0.7
    assert best.share == pytest.approx(gain / most, abs=1e-12)


@pytest.mark.parametrize("n", [2, 8])
def test_groups_of_draws_agree_with_order_statistics(sample, n):
    """Over many sets of draws the errors are about the standard errors, with a mean of zero."""
    truth = exact_best(sample, n)
    distances = []
    for _ in range(60):
        index = torch.multinomial(sample.log_prior_weight.exp()[:, 0], 1024, replacement=True)
        draws = PriorSample.of_draws(sample.response[index], sample.log_likelihood[index])
        best = measured_best(truth, draws, n)
        pairs = (
            (best.kl, truth.kl_exact),
            (best.reward, truth.reward_exact),
            (best.win_rate, truth.win_rate.value),
        )
        distances.append(
            [(estimate.value - exact) / estimate.standard_error for estimate, exact in pairs]
        )
    spread = torch.tensor(distances)
    assert ((spread.std(0) > 0.5) & (spread.std(0) < 1.5)).all()
    assert (spread.mean(0).abs() < 5 / 60**0.5).all()


def one(n=4, kl=0.5, reward=1.85, win_rate=(0.6, 0.01), kl_at=0.0, reward_at=0.0):
    """A best of n that meets all of the claim, but for the changes.

    The prior has reward 1, and the posterior at the same KL reward 2. The measured KL and reward
    have a standard error of 0.1 and are so many standard errors from the exact values.
    """
    return Best(
        kl=Estimate(kl + 0.1 * kl_at, 0.1),
        kl_exact=kl,
        kl_bound=best_of_n_kl_bound(n),
        reward=Estimate(reward + 0.1 * reward_at, 0.1),
        reward_exact=reward,
        frontier=2.0,
        share=reward - 1 if n > 1 else math.nan,
        win_rate=Estimate(*win_rate),
        win_rate_bound=best_of_n_win_rate_bound(n),
    )


PRIOR, GOOD = one(n=1, kl=0.0, reward=1.0, win_rate=(0.5, 0.0)), one(n=16, kl=0.1, reward=1.9)


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({"kl": best_of_n_kl_bound(4) - 1e-6}, set()),
        ({"kl": best_of_n_kl_bound(4) + 1e-6}, {0}),
        ({"win_rate": (0.829, 0.01)}, set()),  # the bound is 0.8
        ({"win_rate": (0.831, 0.01)}, {1}),
        ({"win_rate": (0.8001, math.nan)}, {1}),
        ({"reward": 2.0 + 1e-6}, {2}),
        ({"reward": 1.79}, {3}),
    ],
    ids=str,
)
def test_each_finding_is_decided_by_its_own_number(changed, failed):
    """The worst of several n decides, in any order; a prior draw, the best of 1, has no share."""
    odd = one(**changed)
    for best in ({1: PRIOR, 4: odd, 16: GOOD}, {2: GOOD, 4: odd}):
        findings = findings_of(best, "here")
        assert {i for i, finding in enumerate(findings) if not finding.held} == failed
    assert f"gain here: {min(odd.share, 0.9):.2g} " in findings[3].statement


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({"kl_at": 2.9}, set()),
        ({"kl_at": -3.1}, {0}),
        ({"reward_at": 2.9}, set()),
        ({"reward_at": -3.1}, {1}),
        ({"kl": best_of_n_kl_bound(4), "kl_at": 3.1}, {0, 2}),
        ({"kl_at": math.nan}, {0, 2}),
    ],
    ids=str,
)
def test_each_finding_of_measurements_is_decided_by_its_own_number(changed, failed):
    findings = measured_findings({1: PRIOR, 4: one(**changed), 16: GOOD})
    assert {i for i, finding in enumerate(findings) if not finding.held} == failed
    for index, name in enumerate(("kl_at", "reward_at")):
        errors = abs(changed.get(name, 0.0))
        assert f", {errors:.1f} standard errors from" in findings[index].statement


@pytest.mark.slow
def test_script(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "grammar_prior", lambda **_: prior)
    findings = main(BestOfN(sizes=(1, 2, 8), draws=320, out=tmp_path))
    assert all(finding.held for finding in findings), findings
    assert len(findings) == 11
    printed = capsys.readouterr().out
    assert f"{best_of_n_kl_bound(8):.4f}" in printed
    assert "The claim held" in printed
    assert {path.name for path in tmp_path.rglob("*.svg")} == {"grammar.svg", "text.svg"}

"""Binary reward: the log-odds shift by 1/beta, the ratios within the classes stay."""

import math

import pytest
import torch

from experiments import binary_reward
from experiments.binary_reward import BinaryReward, findings_of, main, measure
from experiments.shared.tables import summary
from experiments.shared.training import PENALISED, PURE
from inference import Enumeration
from model import AlignmentModel, Pattern, TextReward


def test_posterior_shifts_the_log_odds_by_one_over_beta_and_preserves_the_ratios(prior):
    model = AlignmentModel(prior, TextReward(Pattern.of_words("not"), prior), beta=0.17)
    truth = Enumeration(model, prior.encode(["the plot was"]))
    metrics = measure(truth.log_posterior, truth.log_prior, truth.log_likelihood[:, 0] > 0)
    assert metrics["log-odds shift"] == pytest.approx(1 / 0.17, abs=1e-10)
    assert metrics["ratio"] < 1e-10
    assert max(abs(metrics["KL in successes"]), abs(metrics["KL in failures"])) < 1e-10


def test_changes_within_a_class_are_measured():
    log_prob = torch.tensor([[0.5], [0.1], [0.2], [0.2]], dtype=torch.float64).log()
    log_prior = torch.full((4, 1), 0.25, dtype=torch.float64).log()
    metrics = measure(log_prob, log_prior, torch.tensor([True, True, False, False]))
    kl = 5 / 6 * math.log(5 / 3) + 1 / 6 * math.log(1 / 3)
    assert metrics["P(success)"] == pytest.approx(0.6)
    assert metrics["log-odds shift"] == pytest.approx(math.log(0.6 / 0.4))
    assert metrics["ratio"] == pytest.approx(math.log(5))
    assert metrics["KL in successes"] == pytest.approx(kl)
    assert metrics["KL in failures"] == pytest.approx(0, abs=1e-12)
    assert metrics["KL within"] == pytest.approx(0.6 * kl)


def test_findings_fail_where_the_claim_does():
    def metrics(shift, within, ratio):
        return summary([{"log-odds shift": shift, "KL within": within, "ratio": ratio}])

    def held(runs):
        return [finding.held for finding in findings_of(runs, 1.0)]

    good = {
        "posterior": metrics(1.0, 0.0, 1e-15),
        f"{PURE}, exact": metrics(5.0, 0.1, 1.0),
        f"{PENALISED}, exact": metrics(1.05, 0.04, 1.0),
    }
    assert held(good) == [True] * 4
    assert not held({**good, "posterior": metrics(1.0 + 1e-9, 0.0, 1e-15)})[0]
    assert not held({**good, "posterior": metrics(1.0, 0.0, 1e-9)})[0]
    bad = {f"{PURE}, exact": metrics(5.0, 0.04, 1.0), f"{PENALISED}, exact": metrics(2, 0.1, 1.0)}
    assert held({**good, **bad}) == [True, False, False, False]


@pytest.mark.slow
def test_script(prior, capsys, monkeypatch):
    monkeypatch.setattr(binary_reward, "grammar_prior", lambda **_: prior)
    findings = main(BinaryReward(steps=4, seeds=2, particles=8))
    assert findings[0].held
    assert len(findings) == 6
    printed = capsys.readouterr().out
    assert "log-odds shift" in printed
    assert "did NOT hold" in printed

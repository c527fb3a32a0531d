"""Collapse: reward alone loses the entropy, the penalty keeps the posterior's."""

import math

import pytest

from experiments.collapse import __main__ as script
from experiments.collapse.__main__ import Collapse, main, run
from experiments.collapse.report import findings_of, measure
from experiments.shared.tables import summary
from experiments.shared.training import PENALISED, PURE
from inference import Enumeration, entropy
from model import AlignmentModel, LanguageModel, TextReward, vader_sentiment


def sentiment(prior):
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    return model, Enumeration(model, prior.encode(["the film was"]))


def test_penalty_keeps_the_entropy_that_pure_reward_loses(prior):
    prior = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=2)  # 91 responses
    model, truth = sentiment(prior)
    args = Collapse(steps=60)
    log_pure, pure = run(args, model, truth, PURE, seed=None)
    _, penalised = run(args, model, truth, PENALISED, seed=None)
    assert pure[60] < 0.3
    assert log_pure.max().exp() > 0.9
    assert abs(penalised[60] - entropy(truth.log_posterior).item()) < 0.1


def test_metrics_of_the_prior_and_the_posterior(prior):
    model, truth = sentiment(prior)
    before, after = (
        measure(model, truth, log_prob, 64) for log_prob in (truth.log_prior, truth.log_posterior)
    )
    reward = (truth.log_prior.exp() * 0.3 * truth.log_likelihood).sum().item()
    assert before["E[r]"] == pytest.approx(reward, abs=1e-12)
    assert before["KL(q||p0)"] == pytest.approx(0, abs=1e-12)
    assert after["KL(q||p*)"] == pytest.approx(0, abs=1e-12)
    elbo = before["E[r]"] / 0.3
    assert before["KL(q||p*)"] == pytest.approx(truth.log_z.item() - elbo, abs=1e-10)
    assert after["entropy"] == pytest.approx(entropy(truth.log_posterior).item(), abs=1e-12)


def test_findings_fail_where_the_claim_does():
    def metrics(share, kl=None):
        kl = share if kl is None else kl
        return summary([{"entropy": share, "distinct-2": share, "KL(q||p*)": kl}])

    def held(runs):
        return [finding.held for finding in findings_of(runs)]

    bad = {f"{PURE}, sampled": metrics(0.9), f"{PENALISED}, sampled": metrics(0.15)}
    assert not any(held({"prior": metrics(1.0), **bad}))
    good = {
        "prior": metrics(1.0),
        f"{PURE}, exact": metrics(1e-3, kl=9.0),
        f"{PENALISED}, exact": metrics(0.9, kl=0.0),
    }
    assert all(held(good))
    nan = {f"{way}, sampled": metrics(math.nan) for way in (PURE, PENALISED)}
    assert not any(held(good | nan))


@pytest.mark.slow
def test_script(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "grammar_prior", lambda **_: prior)
    findings = main(Collapse(steps=4, seeds=2, particles=8, draws=16, threads=1, out=tmp_path))
    assert not all(finding.held for finding in findings), "four steps collapse nothing"
    printed = capsys.readouterr().out
    assert "most probable" in printed
    assert "did NOT hold" in printed
    assert len(list(tmp_path.rglob("collapse.svg"))) == 1

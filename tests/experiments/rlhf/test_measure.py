"""The table of a tuned guide against sums over all responses."""

import re

import pytest

from experiments.rlhf.options import RLHF
from experiments.rlhf.report import measure
from experiments.rlhf.studies import two_worlds
from experiments.rlhf.text_sample import TextSample
from experiments.shared.gradients import moved_guide
from inference import Enumeration
from inference.prior_sample import SpentSampleError
from model import AlignmentModel, TextReward
from tests.experiments.rlhf.small import gold


def test_rows_are_near_the_exact_expectations_of_prior_guide_and_posterior(prior, every):
    """Estimates within five standard errors; the posterior of all responses to three digits."""
    prompts, beta = prior.encode(["the film was"]), 0.5
    reward = TextReward(lambda texts: [len(text) / 10 for text in texts], prior)
    model, guide = AlignmentModel(prior, reward, beta), moved_guide(prior)
    truth = Enumeration(model, prompts)
    table, _ = measure(model, guide, prompts, 2000, gold, every)
    rows = {line.split("  ")[0]: re.findall(r"-?[\d.]+", line) for line in table.splitlines()}
    own = {"prior": truth.log_prior, "guide": truth.log_guide(guide)}
    for name, log_prob in own.items():
        prob = log_prob.exp()
        proxy, error, *kl, gold_reward, gold_error = map(float, rows[name])
        expected = (prob * beta * truth.log_likelihood).sum()
        assert proxy == pytest.approx(expected.item(), abs=5 * error)
        assert gold_reward == pytest.approx((prob[:, 0] @ every.gold).item(), abs=5 * gold_error)
    assert kl[0] == pytest.approx(truth.kl_guide_prior(guide).item(), abs=5 * kl[1])
    posterior = truth.log_posterior.exp()
    expected = [
        (posterior * beta * truth.log_likelihood).sum(),
        (posterior * (truth.log_posterior - truth.log_prior)).sum(),
        posterior[:, 0] @ every.gold,
    ]
    row = map(float, rows["posterior, from all responses"])
    assert list(row) == pytest.approx([value.item() for value in expected], abs=1e-3)


def test_texts_that_preferences_were_about_measure_no_posterior(prior):
    pool = TextSample.of(prior, "the film was", gold, 50, "preferences")
    model = AlignmentModel(prior, TextReward(lambda texts: [0.0] * len(texts), prior), 1.0)
    prompts = prior.encode(["the film was"])
    with pytest.raises(SpentSampleError, match="used for preferences"):
        measure(model, moved_guide(prior), prompts, 8, gold, pool)


def test_the_pool_of_preferences_is_spent_and_the_sample_is_not(prior):
    args = RLHF(prompt="the film was", word_prompt="the film was", draws=200)
    _, longer = two_worlds(args, prior, gold)
    assert longer.pool.responses.purposes == ["preferences"]
    assert longer.sample.responses.purposes == []

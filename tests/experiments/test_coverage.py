"""Shares of intervals that hold, against intervals of known coverage."""

import math
from functools import partial

import pytest
import torch

from experiments.coverage import (
    HOLDS,
    MARKED,
    MISSED,
    OUTCOMES,
    REWARD,
    Coverage,
    main,
    of_sampler,
    outcome,
    shares_of,
)
from inference import Enumeration, Estimate
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.grammar import PROMPTS


def of(value, error, mark):
    return outcome(Estimate(value, error), torch.zeros(2), mark)


@pytest.mark.parametrize(
    ("value", "error", "mark", "expected"),
    [
        (1.9, 1.0, False, {HOLDS}),
        (-1.9, 1.0, True, {HOLDS, MARKED}),
        (2.0, 1.0, False, {MISSED}),
        (2.0, 1.0, True, {MARKED}),
        (0.0, math.nan, False, {MARKED}),
        (0.5, 0.0, False, {MARKED}),
        (math.nan, math.nan, True, {MARKED}),
    ],
)
def test_an_interval_holds_or_is_marked_or_misses(value, error, mark, expected):
    outcomes = zip(OUTCOMES, of(value, error, mark), strict=True)
    assert {name for name, is_so in outcomes if is_so} == expected


def test_shares_are_those_of_normal_numbers():
    def measure(size):
        value = torch.randn(()).item()
        return {REWARD: of(value, 1.0, value > 2.5)}

    shares = shares_of(measure, 1, 4000)[REWARD]
    assert shares[HOLDS].value == pytest.approx(0.95, abs=0.01)
    assert 0.002 < shares[MARKED].value < 0.012
    assert shares[MISSED].value == pytest.approx(1 - shares[HOLDS].value - shares[MARKED].value)


def test_intervals_of_importance_sampling_hold_the_listed_mean_and_no_other():
    prior = grammar_prior(max_new_tokens=3)
    reward, prompts = TextReward(vader_sentiment, prior), prior.encode(PROMPTS)
    model, other = (AlignmentModel(prior, reward, beta) for beta in (1.0, 0.1))
    right, wrong = (
        partial(of_sampler, "importance", model, Enumeration(each, prompts))
        for each in (model, other)
    )
    assert shares_of(right, 128, 20)[REWARD][HOLDS].value >= 0.8
    assert shares_of(wrong, 128, 2)[REWARD][MISSED].value == 1


@pytest.mark.slow
def test_script(capsys):
    sources = ("rejection", "diagnose")
    findings = main(Coverage(sources=sources, betas=(0.3,), sizes=(4,), runs=3, steps=2))
    subjects = [finding.statement.partition(":")[0] for finding in findings]
    assert subjects == ["beta 0.3, rejection, E[r], 4", "beta 0.3, diagnose, log Z, 4"]
    assert "\ndiagnose, KL(p* || q), 4  " in capsys.readouterr().out

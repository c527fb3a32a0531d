"""Shares of intervals that hold, against intervals of known coverage."""

import math
from functools import partial

import pytest
import torch

from experiments.coverage import (
    HOLDS,
    MARKED,
    MISSED,
    REWARD,
    Coverage,
    Interval,
    main,
    measures,
    of_sampler,
    repeated,
    shares_of,
)
from inference import Estimate
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.grammar import PROMPTS


@pytest.mark.parametrize(
    ("estimate", "mark", "outcome"),
    [
        (Estimate(1.9, 1.0), False, {HOLDS}),
        (Estimate(-1.9, 1.0), True, {HOLDS, MARKED}),
        (Estimate(2.0, 1.0), False, {MISSED}),
        (Estimate(2.0, 1.0), True, {MARKED}),
        (Estimate(0.0, math.nan), False, {MARKED}),
        (Estimate(0.5, 0.0), False, {MARKED}),
        (Estimate(math.nan, math.nan), True, {MARKED}),
    ],
)
def test_an_interval_holds_or_is_marked_or_misses(estimate, mark, outcome):
    outcomes = Interval(estimate, 0.0, mark).outcome()
    assert {name for name, is_so in outcomes.items() if is_so} == outcome


def test_shares_are_those_of_normal_numbers():
    torch.manual_seed(0)
    numbers = torch.randn(4000).tolist()
    runs = ({REWARD: Interval(Estimate(each, 1.0), 0.0, each > 3)} for each in numbers)
    shares = shares_of(runs)[REWARD]
    assert shares[HOLDS].value == pytest.approx(0.95, abs=0.01)
    assert 0 < shares[MARKED].value < 0.004
    assert shares[MISSED].value == pytest.approx(1 - shares[HOLDS].value - shares[MARKED].value)


def test_intervals_of_importance_sampling_hold_the_listed_mean_and_no_other():
    args = Coverage(sources=("importance",), betas=(1.0,))
    ((_, measure),) = measures(args, 1.0)
    shares = shares_of(repeated(partial(measure, 128), 20, 0))[REWARD]
    assert shares[HOLDS].value >= 0.8
    prior = grammar_prior(max_new_tokens=3)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 1.0)
    wrong = partial(of_sampler, "importance", model, prior.encode(PROMPTS), 1.0, 128)
    assert shares_of(repeated(wrong, 2, 0))[REWARD][MISSED].value == 1


@pytest.mark.slow
def test_script(capsys):
    sources = ("rejection", "diagnose")
    findings = main(Coverage(sources=sources, betas=(0.3,), sizes=(4,), runs=3, steps=2))
    assert len(findings) == 5
    text = capsys.readouterr().out
    assert "rejection, E[r], 4" in text
    assert text.count("too noisy to say") >= 5

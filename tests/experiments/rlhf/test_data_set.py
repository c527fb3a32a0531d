"""Measurements of one simulated data set."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.rlhf.learning import KLS, TextWorld, data_set
from experiments.rlhf.text_sample import TextSample
from model.preferences import AGGREGATIONS, PriorFeatures
from tests.experiments.rlhf.small import SMALL, gold


def test_measurements_of_a_data_set_are_those_of_its_curves(every, prior):
    """Peak of the gold reward, gain there, fall to the end, and meanwhile the proxy's rise."""
    world, features = TextWorld("word", every, every), PriorFeatures(prior)
    betas = 2 * torch.logspace(1.5, -3.0, 30, dtype=torch.float64)
    run, curves, test, posterior, train = data_set(SMALL, features, world, 20, 1, betas)
    assert (run.world, run.num_preferences, run.seed, len(train)) == ("word", 20, 1, 20)
    assert curves.keys() == AGGREGATIONS.keys()
    for name, curve in curves.items():
        own = [key for key in run.measured if key.startswith(f"{name} ")]
        of_it = {key.removeprefix(f"{name} "): run.measured[key] for key in own}
        gold, kl, proxy = curve.gold.tolist(), curve.kl.tolist(), curve.proxy.tolist()
        peak = max(range(len(gold)), key=gold.__getitem__)
        assert of_it["peak kl"] == kl[peak]
        assert of_it["gain"] == pytest.approx(gold[peak] - (every.prob @ every.gold).item())
        assert of_it["fall"] == pytest.approx(gold[peak] - gold[-1])
        assert of_it["proxy rise"] == pytest.approx(proxy[-1] - proxy[peak])
        for at in KLS:
            assert of_it[f"gold {at:g}"] == pytest.approx(float(np.interp(at, kl, gold)))
    assert run.measured["accuracy"] == test.accuracy.value
    correlation = every.correlation(posterior(every.texts).mean(0))
    assert run.measured["correlation"] == pytest.approx(correlation)


def test_too_few_pairs_or_effective_draws_are_refused_by_option(prior, every, monkeypatch):
    draws = TextSample.of(prior, "the film was", gold, 64)
    args, features = replace(SMALL, min_effective=60), PriorFeatures(prior)
    world, betas = TextWorld("3 tokens", every, draws), torch.tensor([1e-3])
    message = "--draws 64 with --min-effective 60: none of 1 betas has a posterior"
    monkeypatch.setattr("experiments.rlhf.learning.NUM_TEST", 10)
    with pytest.raises(SystemExit, match=message):
        data_set(args, features, world, 20, 0, betas)
    monkeypatch.setattr("experiments.rlhf.text_sample.MAX_ROUNDS", 0)
    with pytest.raises(SystemExit, match="--num-preferences 20, 3 tokens: of 0 pairs"):
        data_set(args, features, world, 20, 0, betas)

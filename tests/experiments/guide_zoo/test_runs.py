"""Runs of the guide zoo: optima and fits of every variant, and their measurements."""

import math
from dataclasses import replace

import pytest

from experiments.guide_zoo.runs import MEASURE, VARIANTS, run
from experiments.shared.zoo import Job, measure_guide
from guides import GUIDES

LISTED = [name for name, variant in VARIANTS.items() if variant.on_tokens]


@pytest.mark.parametrize("name", LISTED)
def test_every_variant_runs_and_the_optimum_is_below_the_fit(name):
    """On the enumerable world; twelve steps of descent are below five of SVI."""
    for direction in ("reverse", "forward") if name == "mean-field" else ("reverse",):
        job = Job("eight-tokens", name, 5, 16, 0, direction)
        fit = run(job).measured
        kl = MEASURE[direction]
        # an optimum that contains the posterior must come closer than `NO_GAP`
        num_steps = 300 if VARIANTS[name].contains_posterior else 12
        best = run(replace(job, seed=None, num_steps=num_steps)).measured
        assert 0 <= best[kl] < fit[kl]
        assert best["parameters"] == fit["parameters"] > 0
        assert math.isfinite(fit["seconds"])
        assert best["worst_start"] >= best[kl]


def test_tables_that_miss_the_posterior_are_an_error():
    with pytest.raises(
        RuntimeError,
        match=r"of the best guide tabular is .* expected 0: the posterior is in this family",
    ):
        run(Job("two-modes", "tabular", 1, 0, None))


def test_every_family_that_trains_is_compared():
    """Under its own name or, with options, another; a registered family without a variant fails."""
    trained = {name for name, family in GUIDES.items() if family.trains}
    assert {variant.family for variant in VARIANTS.values()} == trained


def test_exact_measures_of_the_prior(world, make):
    estimates = measure_guide(world, make("fine-tuned"))
    kl_prior = estimates["kl_guide_prior"].value
    assert kl_prior == pytest.approx(0, abs=1e-6)
    gap = world.truth.log_z.item() - estimates["reward"].value / world.model.beta + kl_prior
    assert gap == pytest.approx(estimates["kl_guide_posterior"].value, abs=1e-6)

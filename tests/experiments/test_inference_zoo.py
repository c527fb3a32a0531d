"""The zoo: every algorithm runs on both worlds, what is measured is right, and what refuses says why."""

import json
import math
from dataclasses import replace

import pytest
import torch

from experiments.inference_zoo import (
    FROM_GUIDE,
    TUNED,
    Job,
    Zoo,
    empirical,
    list_jobs,
    main,
    measure_guide,
    run,
    sample,
    train,
)
from experiments.shared.worlds import WORLDS, eight_tokens
from guides import FineTuned
from inference import OBJECTIVES, SAMPLERS, importance_sampling
from inference.samplers import enumerate_posterior


@pytest.fixture
def args(tmp_path):
    return Zoo(
        worlds=("eight-tokens",), steps=(2,), fractions=(0.5, 1.0), seeds=2, workers=1, out=tmp_path
    )


def test_every_algorithm_is_in_the_zoo(args):
    names = {job.algorithm for job in list_jobs(args)}
    assert names == {*OBJECTIVES, *SAMPLERS, *(name + FROM_GUIDE for name in TUNED)}


def test_table_figure_and_results(args, capsys):
    results = main(
        replace(args, only=("leave-one-out", "importance", "importance" + FROM_GUIDE, "best-of-n"))
    )
    assert len(results) == 4 * 2 * 2
    text = capsys.readouterr().out
    assert "KL(p* || q)" in text
    assert "±" in text
    folder = next(args.out.iterdir())
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["job"]["algorithm"] for line in lines] == [
        result.job.algorithm for result in results
    ]
    assert (folder / "eight-tokens.svg").is_file()


@pytest.mark.parametrize("name", [*OBJECTIVES, *SAMPLERS, *(name + FROM_GUIDE for name in TUNED)])
def test_every_algorithm_runs(name):
    result = run(Job("eight-tokens", name, 1.0, 4, 0))
    assert not result.note, result.note
    assert math.isfinite(result.measured["kl_guide_posterior"])
    assert 0 < result.measured["reward"] < 1


@pytest.mark.slow
def test_english_world_is_measured_against_its_exact_samples(monkeypatch):
    small = WORLDS["film-reviews"](256)
    monkeypatch.setitem(WORLDS, "film-reviews", lambda: small)
    guide = run(Job("film-reviews", "leave-one-out", 1.0, 1, 0)).measured
    assert guide["kl_guide_posterior"] > 1
    draws = run(Job("film-reviews", "importance", 1.0, 16, 0)).measured
    assert draws["log_z_error"] < 1
    assert draws["reward"] > guide["reward"]


def test_training_a_proposal_is_on_the_budget():
    world = eight_tokens()
    drawn = sample(
        world, Job("eight-tokens", "importance" + FROM_GUIDE, 1.0, 4, 0), 4 * world.particles
    )
    assert (
        len(drawn.response) == 2 * world.particles
    )  # two steps of training have drawn the other half


def test_refusals_are_results():
    result = run(Job("eight-tokens", "best-of-n", 1.0, 1, 0))
    assert not result.note
    world = eight_tokens()
    broken = replace(Job("eight-tokens", "metropolis-hastings", 1.0, 1, 0), steps=0)
    assert "num_samples" in run(broken).note
    assert world.truth is not None


def test_unknown_algorithm_and_steps_are_named(args):
    with pytest.raises(SystemExit, match="--only has 'nonsense', expected one of: leave-one-out"):
        list_jobs(replace(args, only=("nonsense",)))
    with pytest.raises(SystemExit, match="--steps has 1 numbers for 2 worlds"):
        main(replace(args, worlds=("eight-tokens", "film-reviews")))


def test_empirical_law_of_all_responses_is_the_posterior():
    world = eight_tokens()
    found = empirical(world, enumerate_posterior(world.model, world.prompts))
    assert torch.allclose(found, world.truth.log_posterior[:, 0].exp())
    drawn = importance_sampling(world.model, world.prompts, num_samples=50_000)
    assert (empirical(world, drawn) - found).abs().sum() < 0.1


def test_more_budget_is_closer():
    world = eight_tokens()
    start = measure_guide(world, FineTuned(world.model.prior))["kl_guide_posterior"]
    short, longer = (
        measure_guide(world, train(world, "trajectory-balance", n, 0))["kl_guide_posterior"]
        for n in (5, 25)
    )
    assert longer < short < start

"""Jobs, tables, figures and refusals of the guide zoo."""

import json
from dataclasses import replace

import pytest

from experiments.guide_zoo import runs as guide_runs
from experiments.guide_zoo.__main__ import GuideZoo, list_jobs, main
from experiments.guide_zoo.runs import VARIANTS
from experiments.shared import zoo
from experiments.shared.worlds import WORLDS, film_reviews
from inference import OBJECTIVES
from tests.experiments.diverges import DIVERGES


def fails(*_):
    raise ValueError("the guide is NaN")


@pytest.fixture
def args(tmp_path):
    return GuideZoo(
        seeds=1, steps=3, text_steps=2, particles=8, max_iter=20, workers=1, out=tmp_path
    )


def test_two_worlds_leave_tables_figures_and_results(args, capsys):
    small = replace(args, worlds=("eight-tokens", "two-modes"), only=("1-gram", "mean-field"))
    results = main(small)
    assert len(results) == 2 * 2 * 2 + 2
    text = capsys.readouterr().out
    assert "KL(p* || q), SVI by forward-kl" in text
    assert "crossings" in text
    folder = next(args.out.iterdir())
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["job"]["name"] for line in lines] == [result.job.name for result in results]
    assert sum(lines[-1]["probabilities"]) == pytest.approx(1)
    assert (folder / "gaps.svg").is_file()
    assert (folder / "modes.svg").is_file()


def test_gaps_add_up(args, capsys):
    results = main(replace(args, worlds=("eight-tokens",), only=("1-gram",), max_iter=60))
    best, fit = (result.measured["kl_guide_posterior"] for result in results[::2])
    printed = capsys.readouterr().out.splitlines()
    row = next(line for line in printed if line.startswith("1-gram")).split()
    approximation, inference, total = (float(text) for text in row[2:5])
    assert (approximation, total) == pytest.approx((best, fit), rel=5e-3)
    assert inference == pytest.approx(fit - best, rel=5e-3)


def test_text_world_leaves_its_table_and_figures(args, capsys, monkeypatch):
    small = film_reviews(256)
    monkeypatch.setattr(zoo, "NUM_SAMPLES", 64)
    monkeypatch.setitem(WORLDS, "film-reviews", lambda: small)
    names = ("lora-1", "twisted", "contrastive-twist")
    results = main(replace(args, worlds=("film-reviews",), only=names))
    assert tuple(result.job.name for result in results) == names
    for result in results:
        assert len(result.trajectory) == 2
        assert result.error["kl_guide_posterior"] > 0
        assert result.measured["kl_guide_posterior"] > 1
    # the first step draws from the prior
    assert results[1].trajectory[0][0] == pytest.approx(0, abs=1e-4)
    assert "CPU s a step" in capsys.readouterr().out
    figures = {path.name for path in args.out.rglob("*.svg")}
    assert figures == {"frontier.svg", "costs.svg"}


def test_a_world_without_runs_has_neither_table_nor_figure(args, capsys):
    main(replace(args, worlds=("two-modes", "eight-tokens"), only=("1-gram",)))
    assert "nothing was run" in capsys.readouterr().out
    assert [path.name for path in next(args.out.iterdir()).glob("*.svg")] == ["gaps.svg"]


def test_defaults_are_every_variant_where_it_is_compared():
    jobs = list_jobs(GuideZoo())
    for world, compared in (("eight-tokens", "on_tokens"), ("film-reviews", "on_text")):
        expected = {name for name, variant in VARIANTS.items() if getattr(variant, compared)}
        assert {job.name for job in jobs if job.world == world} == expected
    one = ("eight-tokens", "tabular", "forward")
    own = [job.seed for job in jobs if (job.world, job.name, job.direction) == one]
    assert own == [None, 0, 1, 2]


@pytest.mark.filterwarnings("ignore:fit stopped early")
def test_a_stopped_fit_and_a_failed_run_have_notes(args, monkeypatch, capsys):
    monkeypatch.setitem(OBJECTIVES, "leave-one-out", DIVERGES)
    args = replace(args, worlds=("eight-tokens",), only=("1-gram",), max_iter=5, steps=1)
    main(args)
    assert "1-gram, seed 0 stopped early at step 0: the loss is nan" in capsys.readouterr().out

    monkeypatch.setattr(guide_runs, "tune", fails)
    main(args)
    assert "1-gram, seed 0 no result: the guide is NaN" in capsys.readouterr().out


def test_a_text_world_without_any_result_has_a_row(args, monkeypatch, capsys):
    small = film_reviews(64)
    monkeypatch.setitem(WORLDS, "film-reviews", lambda: small)
    monkeypatch.setattr(guide_runs, "tune", fails)
    main(replace(args, worlds=("film-reviews",), only=("lora-1",)))
    assert "seed 0 no result: the guide is NaN" in capsys.readouterr().out

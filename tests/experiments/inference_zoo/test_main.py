"""Jobs, table, figure and refusals of the inference zoo."""

import json
from dataclasses import replace

import pytest

from experiments.inference_zoo.__main__ import WITH_GUIDE, InferenceZoo, list_jobs, main
from experiments.inference_zoo.runs import FROM_GUIDE
from inference import OBJECTIVES, SAMPLERS


@pytest.fixture
def args(tmp_path):
    return InferenceZoo(
        worlds=("eight-tokens",), steps=(2,), fractions=(0.5, 1.0), seeds=2, workers=1, out=tmp_path
    )


def test_every_algorithm_is_in_the_zoo(args):
    names = {job.name for job in list_jobs(args)}
    assert names == {*OBJECTIVES, *SAMPLERS, *(name + FROM_GUIDE for name in WITH_GUIDE)}


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
    assert [line["job"]["name"] for line in lines] == [result.job.name for result in results]
    assert (folder / "eight-tokens-objectives.svg").is_file()
    assert (folder / "eight-tokens-samplers.svg").is_file()


def test_steps_are_as_many_as_worlds(args):
    with pytest.raises(SystemExit, match="--steps has 1 numbers for 2 worlds"):
        replace(args, worlds=("eight-tokens", "film-reviews"))


def test_equal_numbers_of_steps_run_once(args):
    jobs = list_jobs(replace(args, steps=(1,), only=("leave-one-out",)))
    assert [(job.num_steps, job.seed) for job in jobs] == [(1, 0), (1, 1)]

"""The live view follows a fit, changes nothing, and is never in the way."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from experiments.shared.metrics_file import read_metrics
from experiments.shared.run_folder import RunFolder
from experiments.steer.__main__ import main
from experiments.steer.live import page
from model.common import files
from tests.experiments.steer.small import SHORT, ended_early, untimed


def version_of(folder):
    text = (folder.path / "live.js").read_text()
    return json.loads(text.removeprefix("show(").strip().removesuffix(")"))


@pytest.fixture
def args(grammar_folder, tmp_path):
    prompts = ("the film was", "the")
    return replace(SHORT, prior=str(grammar_folder), prompts=prompts, out=tmp_path, watch=True)


@pytest.mark.usefixtures("each_step")
def test_a_watched_run_is_the_same_run(args):
    alone, watched = (main(replace(args, watch=watch)) for watch in (False, True))
    assert not (alone.path / "live.html").exists()
    assert untimed(watched) == untimed(alone)
    measured = [
        json.loads(run.measurements.read_text()) | {"seconds": 0} for run in (alone, watched)
    ]
    assert measured[0] == measured[1]
    version, metrics = version_of(watched), read_metrics(watched.metrics)
    assert version["state"] == "finished"
    assert version["step"] == 5
    assert version["left"] == 0.0
    for name in ("step", "elbo", "kl", "reward"):
        assert version["curves"][name] == [record[name] for record in metrics]
    assert len(version["samples"]) == 4  # two to each of two prompts
    assert all(text.startswith("the ") for text, _ in version["samples"])


def test_the_frontier_is_that_of_the_posteriors(live):
    sample, model = live.run.prior_sample, live.run.model
    *points, own = page.frontier(sample, model)
    kl, mean = sample.frontier([1.0])[0]
    assert own == (kl, model.beta * mean, True)
    assert all(one[0] < other[0] for one, other in pairwise(points))


def test_an_interrupted_run_says_so(args):
    folder, _ = ended_early(args)
    assert version_of(folder)["state"] == "interrupted"
    assert version_of(folder)["warnings"][0].endswith("draws of the prior effective, fewer than 30")


def test_a_long_run_keeps_few_points_of_the_whole_run(live, tmp_path):
    for step in range(1, 1001):
        live({"step": step, "num_responses": 4 * step, "elbo": math.nan, "kl": 0.1 * step})
    live.__exit__(None)
    version = version_of(RunFolder(tmp_path))
    steps = version["curves"]["step"]
    assert 200 <= len(steps) <= 400
    assert steps == list(range(steps[0], 1001, steps[1] - steps[0]))
    assert version["curves"]["elbo"] == [None] * len(steps)
    assert version["curves"]["reward"] == [None] * len(steps)


def test_the_page_stands_alone_and_its_title_is_text(live, tmp_path):
    text = (tmp_path / "live.html").read_text()
    assert "<title>A &lt;run&gt;</title>" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<!--" not in text.removeprefix("<!doctype html>")


@pytest.mark.usefixtures("each_step")
def test_a_full_disk_warns_once_and_the_fit_goes_on(args, monkeypatch):
    def full(path, content):
        if path.name.startswith("live"):
            raise OSError("No space left on device")
        files.write_atomically(path, content)

    monkeypatch.setattr(page, "write_atomically", full)
    with pytest.warns(UserWarning, match="live view is not written: No space left") as caught:
        folder = main(args)
    assert sum("live view" in str(warning.message) for warning in caught) == 1
    assert folder.report.is_file()

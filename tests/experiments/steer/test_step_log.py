"""Trackers of a run: records, completions and arguments; a missing package is refused at once."""

from dataclasses import replace

import pytest

from experiments.shared.metrics_file import read_metrics
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from inference.svi.trackers import TRACKERS, TrackerEntry
from tests.experiments.steer.small import SHORT

TRACKED = replace(SHORT, report_to=("trackio",))


class Notebook:
    """Tracker in memory."""

    runs: list = []  # noqa: RUF012

    def __init__(self, run):
        self.run, self.steps, self.tables = run, {}, {}
        Notebook.runs.append(self)

    def log(self, metrics, step):
        self.steps[step] = metrics

    def table(self, name, columns, rows, step):
        self.tables[name] = (tuple(columns), list(rows))

    def close(self):
        self.steps["end"] = None


@pytest.fixture
def notebook(monkeypatch):
    Notebook.runs = []
    monkeypatch.setitem(TRACKERS, "trackio", TrackerEntry(Notebook, "json", "in memory"))
    return Notebook


def test_a_tracker_gets_the_records_the_arguments_and_the_completions(notebook, tmp_path):
    folder = main(replace(TRACKED, out=tmp_path))
    [tracker] = notebook.runs
    assert tracker.run.name == folder.path.name
    assert not tracker.run.is_resumed
    assert tracker.run.config["out"] == "{run}/.."
    assert str(tmp_path) not in str(tracker.run.config)
    for record in read_metrics(folder.metrics):
        step = tracker.steps[record.pop("step")]
        assert step == {name: record[name] for name in step}
        assert {"reward", "kl", "step_time", "completions/clipped_ratio"} <= step.keys()
    columns, rows = tracker.tables["completions"]
    assert columns == ("origin", "completion", "reward")
    assert len(rows) == 2 * 2 * len(SHORT.prompts)
    assert any(text in folder.report.read_text() for _, text, _ in rows)
    assert "end" in tracker.steps
    main(Steer(resume=folder.path))
    assert notebook.runs[1].run.is_resumed
    assert notebook.runs[1].run.name == tracker.run.name


def test_a_missing_package_is_refused_before_the_run(monkeypatch, tmp_path):
    entry = TrackerEntry(Notebook, "no_such_package", "missing")
    monkeypatch.setitem(TRACKERS, "trackio", entry)
    with pytest.raises(SystemExit, match=r"--report-to: trackio: .* pip install 'elbo-rl\[trackio"):
        main(replace(TRACKED, out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()

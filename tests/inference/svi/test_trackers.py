"""Trackers: they get the metrics of a fit; a missing or failing tracker never ends a run."""

import json
import math

import pytest

from guides import NGram
from inference import fit
from inference.svi.trackers import (
    TRACKERS,
    MissingTrackerError,
    TrackerEntry,
    Trackers,
    check_trackers,
)


class Notebook:
    """Tracker in memory, a user's own."""

    runs: list = []  # noqa: RUF012

    def __init__(self, run):
        self.run, self.steps, self.tables, self.is_closed = run, {}, {}, False
        Notebook.runs.append(self)

    def log(self, metrics, step):
        self.steps[step] = metrics

    def table(self, name, columns, rows, step):
        self.tables[name] = (columns, rows, step)

    def close(self):
        self.is_closed = True


class Broken(Notebook):
    """Tracker that fails in its second step."""

    def log(self, metrics, step):
        if step == 2:
            raise ConnectionError("no network")
        super().log(metrics, step)


class Refusing(Notebook):
    """Tracker that fails at once."""

    def __init__(self, run):
        raise PermissionError("no account")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    Notebook.runs = []
    for make in (Notebook, Broken, Refusing):
        entry = TrackerEntry(make, "json", "in memory")
        monkeypatch.setitem(TRACKERS, make.__name__.lower(), entry)


def run_fit(model, prior, prompts, trackers, num_steps=3, **options):
    guide = NGram(prior, n=1)
    return fit(
        model, guide, prompts, num_steps=num_steps, on_step=trackers, progress=False, **options
    )


def test_a_tracker_gets_the_finite_metrics_of_every_step(model, small_prior, prompts, tmp_path):
    with Trackers(["notebook"], "a run", folder=tmp_path, config={"beta": 0.3}) as trackers:
        result = run_fit(model, small_prior, prompts, trackers)
        trackers.table("completions", ["text", "reward"], [["good", 0.5]])
    [notebook] = Notebook.runs
    for record in result.metrics:
        finite = {k: v for k, v in record.items() if k != "step" and math.isfinite(v)}
        assert notebook.steps[record["step"]] == finite
        assert {"elbo", "reward", "kl"} <= finite.keys()
    assert notebook.tables == {"completions": (["text", "reward"], [["good", 0.5]], 3)}
    assert notebook.run.config == {"beta": 0.3}
    assert notebook.is_closed


def test_a_tracker_that_fails_warns_once_and_the_others_go_on(
    model, small_prior, prompts, tmp_path
):
    names = ["broken", "refusing", "notebook"]
    with (
        pytest.warns(UserWarning, match="gets no more of the run") as caught,
        Trackers(names, "a run", folder=tmp_path) as trackers,
    ):
        result = run_fit(model, small_prior, prompts, trackers)
    messages = [str(warning.message) for warning in caught if "tracker" in str(warning.message)]
    assert messages == [
        "the tracker refusing failed, and gets no more of the run: PermissionError: no account",
        "the tracker broken failed, and gets no more of the run: ConnectionError: no network",
    ]
    assert [record["step"] for record in result.metrics] == [1, 2, 3]
    broken, notebook = Notebook.runs
    assert [*broken.steps] == [1]
    assert [*notebook.steps] == [1, 2, 3]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    entry = TRACKERS["wandb"]._replace(package="no_such_package")
    monkeypatch.setitem(TRACKERS, "wandb", entry)
    with pytest.raises(MissingTrackerError, match=r"wandb: .* pip install 'elbo-rl\[wandb\]'"):
        check_trackers(["notebook", "wandb"])
    with pytest.raises(ValueError, match="tracker 'paper' is unknown, expected one of trackio"):
        check_trackers(["paper"])


def events(folder, name):
    """Steps and values of a scalar, and the texts, as TensorBoard reads them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    texts = [
        event.tensor_proto.string_val[0].decode()
        for tag in accumulator.Tags()["tensors"]
        for event in accumulator.Tensors(tag)
    ]
    return {event.step: event.value for event in accumulator.Scalars(name)}, texts


def test_tensorboard_reads_the_metrics_back(model, small_prior, prompts, tmp_path):
    pytest.importorskip("tensorboard")
    with Trackers(["tensorboard"], "a run", folder=tmp_path) as trackers:
        metrics = run_fit(model, small_prior, prompts, trackers).metrics
        trackers.table("completions", ["text", "reward"], [["a | b", 0.5]])
    for name in ("elbo", "reward", "completions/mean_length"):
        values, texts = events(tmp_path, name)
        assert values == pytest.approx({record["step"]: record[name] for record in metrics})
    assert texts == ["| text | reward |\n| --- | --- |\n| a \\| b | 0.5 |"]


def test_a_resume_replaces_the_steps_after_its_checkpoint(model, small_prior, prompts, tmp_path):
    pytest.importorskip("tensorboard")
    options = {"checkpoint_folder": tmp_path / "checkpoints", "checkpoint_every": 2}
    with Trackers(["tensorboard"], "a run", folder=tmp_path) as trackers:
        run_fit(model, small_prior, prompts, trackers, 2, **options)
        trackers({"step": 3, "elbo": 99.0})  # a step that the kill took
    with Trackers(["tensorboard"], "a run", folder=tmp_path, is_resumed=True) as trackers:
        rest = run_fit(model, small_prior, prompts, trackers, 4, resume=True, **options).metrics
    values, _ = events(tmp_path, "elbo")
    assert [*values] == [1, 2, 3, 4]
    assert values[3] == pytest.approx(rest[0]["elbo"])


def test_trackio_reads_the_metrics_back(model, small_prior, prompts, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    if not hasattr(trackio, "Api"):
        pytest.skip("a version of trackio without a reader")
    monkeypatch.setattr("inference.svi.trackers.PROJECT", tmp_path.name)
    with Trackers(["trackio"], "a-run", folder=tmp_path) as trackers:
        metrics = run_fit(model, small_prior, prompts, trackers).metrics
        trackers.table("completions", ["text", "reward"], [["good", 0.5]])
    logs = trackio.SQLiteStorage.get_logs(tmp_path.name, "a-run")
    elbo = [record["elbo"] for record in logs if "elbo" in record]
    assert elbo == pytest.approx([record["elbo"] for record in metrics])
    assert any("completions" in record for record in logs)


def test_wandb_writes_an_offline_run(model, small_prior, prompts, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    settings = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with Trackers(["wandb"], "a run", folder=tmp_path) as trackers:
        metrics = run_fit(model, small_prior, prompts, trackers).metrics
        trackers.table("completions", ["text", "reward"], [["good", 0.5]])
    [file] = (tmp_path / "wandb").glob("offline-run-*-a-run/*.wandb")
    content = file.read_bytes()
    for record in metrics:
        for name in ("elbo", "reward"):
            assert json.dumps(record[name]).encode() in content
    assert b"completions" in content

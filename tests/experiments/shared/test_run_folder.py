"""A run's folder: nobody else gets it, its arguments are whole, and damaged metrics do not end a run."""

import json
import multiprocessing
import os

import pytest

from experiments.shared.run_folder import RunFolder
from experiments.shared.saved_guide import load_guide, save_guide
from experiments.steer.arguments import Steer
from guides import GUIDES, FineTuned, Twisted
from tests.model.tiny import tiny

RECORD = {"elbo": 0.5, "log_likelihood": float("nan")}


def _make(parent, queue):
    queue.put(RunFolder.new(parent, "steer").path)


def test_no_two_get_the_same_folder(tmp_path, monkeypatch):
    """Also where each sees the folders of the others only after it has chosen a name."""
    monkeypatch.setattr("time.strftime", lambda *_: "20250101-120000")
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: iter(()))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_make, args=(tmp_path, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    paths = {queue.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(paths) == 4


def test_nothing_is_made_of_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        SystemExit,
        match=r"--resume .*nowhere: arguments\.json is missing: expected the folder of an earlier run",
    ):
        RunFolder(tmp_path / "nowhere").read_arguments()
    assert not (tmp_path / "nowhere").exists()


def test_arguments_survive_a_kill_while_they_are_written(tmp_path, monkeypatch):
    folder = RunFolder.new(tmp_path, "steer")
    folder.write_arguments(Steer(beta=0.25))

    def killed(*_):
        raise KeyboardInterrupt

    for operation in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, killed)
            with pytest.raises(KeyboardInterrupt):
                folder.write_arguments(Steer(beta=0.5))
        assert folder.read_arguments()["beta"] == 0.25
    assert [path.name for path in folder.path.iterdir()] == ["arguments.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"arguments": 3}', "\0\0\0", '{"arguments": {"beta": 1}']
)
def test_damaged_arguments_are_named(tmp_path, text):
    (tmp_path / "arguments.json").write_text(text)
    with pytest.raises(SystemExit, match=r"--resume .*: arguments\.json is damaged"):
        RunFolder(tmp_path).read_arguments()


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 3, "elb',
        b"",
        b"\0\0\0\0\0\0",
        b"\xff\xfe",
        b'"step"',
        b"[1, 2]",
        b"null",
        b"3",
        b"{}",
        b'{"elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": NaN, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": true, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": 0, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": 3.5, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": 3, "elbo": "x", "log_likelihood": 1.0}',
        b'{"step": 3, "elbo": null, "log_likelihood": 1.0}',
        b'{"step": 3}',
        b'{"step": 3, "elbo": 1.0, "log_evid\xc3nce": 1.0}',
        b"[" * 20_000,
    ],
)
def test_a_bad_line_of_metrics_is_left_out_and_told(tmp_path, line):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.append_metrics({"step": step} | RECORD)
    with folder.metrics.open("ab") as file:
        file.write(line + b"\n")
    for step in (2, 3):
        folder.append_metrics({"step": step} | RECORD | {"elbo": 0.75})
    with pytest.warns(
        UserWarning,
        match=r"1 of 5 lines are no record of a step and were left out, the first is line 3",
    ):
        records = folder.read_metrics()
    assert [(record["step"], record["elbo"]) for record in records] == [
        (1, 0.5),
        (2, 0.75),
        (3, 0.75),
    ]


def test_what_is_appended_after_a_torn_line_is_not_lost(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1} | RECORD)
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 2, "elbo": 0.')
    folder.append_metrics({"step": 2} | RECORD)
    with pytest.warns(UserWarning, match="1 of 3 lines"):
        assert [record["step"] for record in folder.read_metrics()] == [1, 2]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("lora", "adapter_model.safetensors"),
        ("lora", "adapter_config.json"),
        ("twisted", "guide.safetensors"),
        ("fine-tuned", "model.safetensors"),
    ],
)
def test_a_guide_that_is_not_whole_is_one_line(name, file, tmp_path):
    prior = tiny()
    prompts = prior.encode(["a"])
    save_guide(tmp_path, GUIDES[name](prior, prompts), name, {}, prompts)
    (tmp_path / "digests.json").unlink()
    (tmp_path / file).write_bytes(b"none")
    with pytest.raises(SystemExit, match=r"damaged|cannot load the network"):
        load_guide(tmp_path, prior)
    (tmp_path / file).unlink()
    with pytest.raises(
        SystemExit, match=rf"has no {file}|{file} is missing|cannot load the network"
    ):
        load_guide(tmp_path, prior)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"guide": "none", "options": {}, "prompts": []}', '{"guide": 3}']
)
def test_a_damaged_guide_json_is_named(tmp_path, text):
    prior = tiny()
    save_guide(tmp_path, FineTuned(prior), "fine-tuned", {}, prior.encode(["a"]))
    assert load_guide(tmp_path, prior).num_trained_parameters()
    (tmp_path / "guide.json").write_text(text)
    with pytest.raises(SystemExit, match=r"guide\.json is not as it was saved"):
        load_guide(tmp_path, prior)
    (tmp_path / "digests.json").unlink()
    with pytest.raises(SystemExit, match=r"guide\.json is damaged"):
        load_guide(tmp_path, prior)
    (tmp_path / "guide.json").write_text(
        json.dumps({"guide": "fine-tuned", "options": {}, "prompts": ["a"]})
    )
    assert load_guide(tmp_path, prior).num_trained_parameters()


def test_a_guide_of_other_words_of_the_same_number_is_refused(tmp_path):
    prior, other = tiny(), tiny()
    other.vocabulary = "of other words"
    save_guide(tmp_path, Twisted(prior), "twisted", {}, prior.encode(["a"]))
    assert load_guide(tmp_path, tiny()).num_trained_parameters()
    with pytest.raises(SystemExit, match="tokenizer has other entries"):
        load_guide(tmp_path, other)

"""A run folder belongs to one run, and its arguments are whole."""

import multiprocessing
import os
from pathlib import Path

import pytest

from experiments.shared.run_folder import RunFolder, digest_of, new_folder, versions
from experiments.steer.arguments import Steer
from experiments.steer.resuming import read_record


def _make(parent, queue):
    queue.put(RunFolder.new(parent, "steer").path)


def test_no_two_get_the_same_folder(tmp_path, monkeypatch):
    """Simultaneous runs get different folders, also if each sees the others late."""
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


def test_a_home_folder_that_the_shell_did_not_expand_is_expanded(tmp_path, monkeypatch):
    """Shells leave --out=~/runs as it is, and so do files of options."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with new_folder(Steer(out=Path("~/runs")), "steer") as folder:
        assert folder.path.parent == tmp_path / "runs"


def test_nothing_is_made_of_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        SystemExit,
        match=r"--resume .*nowhere: arguments\.json is missing: "
        r"expected the folder of an earlier run",
    ):
        read_record(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_digest_is_of_the_record_and_not_of_its_order():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})


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
        assert read_record(folder.path)["arguments"]["beta"] == 0.25
    assert [path.name for path in folder.path.iterdir()] == ["arguments.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"arguments": 3}', "\0\0\0", '{"arguments": {"beta": 1}']
)
def test_damaged_arguments_are_named(tmp_path, text):
    (tmp_path / "arguments.json").write_text(text)
    with pytest.raises(SystemExit, match=r"--resume .*: arguments\.json is damaged"):
        read_record(tmp_path)


def test_a_run_from_the_folder_of_the_project_alone_has_the_other_versions(monkeypatch):
    packages = ("torch", "not-installed")
    monkeypatch.setattr("experiments.shared.run_folder.PACKAGES", packages)
    assert versions().keys() == {"python", "torch"}

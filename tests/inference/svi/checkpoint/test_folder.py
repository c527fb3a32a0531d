"""Folders of checkpoints: each whole or skipped, deleted only by their own fit, one fit a time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import inference.svi.checkpoint.state
from guides import MeanField
from inference import SquaredResidual
from inference.svi.checkpoint.folder import CheckpointError, FolderInUseError, locked
from model.common.files import seal
from tests.inference.conftest import parameters_of
from tests.inference.svi.checkpoint.case import Case

# Damage


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def link(path):
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


FILES = [
    *(f"{name}.safetensors" for name in ("guide", "optimizer", "objective", "random")),
    "state.json",
    "digests.json",
]


@pytest.fixture(scope="module")
def replaying(tmp_path_factory):
    """Fit of which every file holds numbers, the fit's result, and a folder after three steps."""
    folder = tmp_path_factory.mktemp("replaying")
    case = Case(objective=lambda: SquaredResidual(4, replay=8))
    case.run(folder / "cut", 3)
    return case, case.run(folder / "whole"), folder / "cut"


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, flip) for name in FILES), *(("state.json", way) for way in (cut, link, Path.unlink))],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    name, damage, tmp_path, replaying
):
    case, expected, folder = replaying
    shutil.copytree(folder, tmp_path / "fit")
    names = [path.name for path in sorted((tmp_path / "fit").glob("step-*"))]
    assert names == ["step-00000002", "step-00000003"]
    damage(tmp_path / "fit" / "step-00000003" / name)
    match = r"checkpoint step-00000003 is damaged: .*Going on from step-00000002, the one before"
    with pytest.warns(UserWarning, match=match):
        assert torch.equal(case.run(tmp_path / "fit", resume=True), expected)
    names = [path.name for path in sorted((tmp_path / "fit").glob("step-*"))]
    assert names == ["step-00000003", "step-00000004"], "what was damaged was written again"


def test_if_none_is_whole_that_is_said(tmp_path):
    Case().run(tmp_path, 2)
    for name in ("step-00000001", "step-00000002"):
        flip(tmp_path / name / "guide.safetensors")
    match = r"step-00000002 is damaged: .*step-00000001 is damaged: .* No checkpoint in"
    with pytest.raises(CheckpointError, match=match):
        Case().run(tmp_path, resume=True)


def each(change):
    return lambda tensors: {name: change(tensor) for name, tensor in tensors.items()}


def drop_one(tensors):
    return dict(list(tensors.items())[:-1])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("guide", drop_one, "is of another guide: 1 parameters differ"),
        ("guide", each(lambda t: t[:1]), "is of another guide: 1 parameters differ"),
        ("guide", each(torch.Tensor.float), "in float32, expected .* in float64"),
        ("optimizer", lambda ts: {f"other/{k}": ts[k] for k in ts}, "expected no such parameter"),
        ("optimizer", each(lambda t: t[:1] if t.dim() else t.repeat(2)), "expected"),
        ("objective", drop_one, "is no state of Proximal_ELBO"),
        ("random", lambda ts: {k: ts[k] for k in ts if k != "cpu"}, "no state of the CPU's gen"),
        ("random", each(lambda t: t[:-1]), "has no state of the CPU's generator"),
    ],
)
def test_states_of_other_names_shapes_or_types_are_refused(name, change, message, tmp_path):
    """Whole files with correct digests; the guide does not change."""
    from inference.objectives import OBJECTIVES

    case = Case(objective=lambda: OBJECTIVES["proximal"](num_particles=4))
    case.run(tmp_path, 1)
    checkpoint = tmp_path / "step-00000001"
    file = checkpoint / f"{name}.safetensors"
    save_file(change(load_file(file)), file)
    seal(checkpoint)
    guides = []
    case.guide = lambda *args: guides.append(MeanField(*args)) or guides[0]
    with pytest.raises(CheckpointError, match=message):
        case.run(tmp_path, resume=True)
    assert not parameters_of(guides[0]).any()


@pytest.mark.parametrize("part", ["step", "fingerprint", "changed"])
def test_a_checkpoint_of_another_version_is_refused_by_name(part, tmp_path):
    Case().run(tmp_path, 1)
    file = tmp_path / "step-00000001" / "state.json"
    state = json.loads(file.read_text())
    del (state if part in state else state["fingerprint"])[part]
    file.write_text(json.dumps(state))
    seal(file.parent)
    match = r"state\.json has other parts than .* another version of the project wrote it"
    with pytest.raises(CheckpointError, match=match):
        Case().run(tmp_path, 2, resume=True)


# Links and foreign names


def test_foreign_names_are_neither_read_nor_deleted(tmp_path, whole):
    foreign = {"step-1-backup", "step-00000009.bak", "step-3", ".step-x.partial"}
    for name in foreign:
        (tmp_path / name).mkdir()
    (tmp_path / "step-notes.txt").touch()
    (tmp_path / ".step-00000001.partial").mkdir()
    assert torch.equal(Case().run(tmp_path), whole)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == foreign | {"step-notes.txt", ".lock", "step-00000003", "step-00000004"}


@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_that_is_a_link_is_neither_followed_nor_deleted(resume, tmp_path):
    Case().run(tmp_path / "other", 2)
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "step-00000100").symlink_to(tmp_path / "other" / "step-00000002")
    with pytest.raises(CheckpointError, match=r"step-00000100 is a link, .*links are not followed"):
        Case().run(tmp_path / "fit", resume=resume)
    assert (tmp_path / "other" / "step-00000002" / "guide.safetensors").is_file()
    (tmp_path / "fit" / "step-00000100").unlink()
    (tmp_path / "fit" / "step-00000100").touch()
    with pytest.raises(CheckpointError, match="step-00000100 is a file"):
        Case().run(tmp_path / "fit", resume=resume)


def test_leftovers_are_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for name, num_steps in ((".step-00000001.partial", 1), (".step-00000001.old", 3)):
        folder = tmp_path / str(num_steps)
        folder.mkdir()
        (folder / name).symlink_to(tmp_path / "mine")
        with pytest.raises(CheckpointError, match="cannot be written"):
            Case().run(folder, num_steps)
    assert (tmp_path / "mine" / "file").is_file()


# One at a time


def test_a_folder_in_use_is_refused_until_the_process_has_died(tmp_path):
    code = """
import fcntl, sys
file = open(sys.argv[1] + "/.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("has it", flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(FolderInUseError, match="is in use by another run"):
        Case().run(tmp_path, 1, resume=True)
    child.kill()
    child.wait()
    child.stdout.close()
    Case().run(tmp_path, 1, resume=True)


def test_two_fits_of_one_process_do_not_share_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUseError):
        Case().run(tmp_path, 1)
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(FolderInUseError, match="is a link, which is not followed"),
        locked(tmp_path),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()


# Kills and full disks at every operation on files


class KilledError(BaseException):
    """Exception that represents the sudden death of a process."""


def no_space():
    return OSError(28, "No space left on device")


def fail_at(monkeypatch, nth, error, *, once):
    """Raise at the nth operation on files, and at all later ones unless `once`."""
    done = 0

    def counted(operation):
        def run(*args, **kwargs):
            nonlocal done
            done += 1
            if done == nth or (done > nth and not once):
                raise error()
            return operation(*args, **kwargs)

        return run

    for name in ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "open"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    for place, name in ((inference.svi.checkpoint.state, "save_file"), (Path, "write_text")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    return lambda: done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "once", "message"),
    [
        (KilledError, False, "^$"),
        (no_space, True, "No space left on device"),
        (no_space, False, "No space left on device"),
    ],
    ids=["kill", "full for a moment", "full"],
)
def test_after_a_fault_at_any_operation_a_resume_ends_the_same(
    error, once, message, tmp_path, monkeypatch
):
    """Two checkpoints exist, a third is written, the first is deleted; the error is the disk's."""
    case = Case()
    whole = case.run(tmp_path / "start", 3)
    shutil.rmtree(tmp_path / "start")
    case.run(tmp_path / "start", 2)
    messages = []
    for nth in range(1, 200):
        folder = _copy(tmp_path, str(nth))
        with monkeypatch.context() as patch:
            count = fail_at(patch, nth, error, once=once)
            try:
                case.run(folder, 3, resume=True)
            except (CheckpointError, OSError, KilledError) as fault:
                messages.append(str(fault))
        assert torch.equal(case.run(folder, 3, resume=True), whole), nth
        if count() < nth:
            break
        shutil.rmtree(folder)
    assert 30 < nth < 199
    assert len(messages) > 20
    assert all(re.search(message, fault) for fault in messages), messages


def _copy(tmp_path, name):
    shutil.copytree(tmp_path / "start", tmp_path / name)
    return tmp_path / name


def test_a_full_disk_ends_a_fit_by_name_with_the_last_checkpoint_whole(
    tmp_path, monkeypatch, whole
):
    case = Case()
    case.run(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(no_space()))
        with pytest.raises(
            CheckpointError,
            match=r"of step 3 cannot be written .*No space left .*last whole one is step-00000002",
        ) as raised:
            case.run(tmp_path, resume=True)
    [note] = raised.value.__notes__
    assert note == "The fit had done 3 steps; the last could not be saved"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "step-00000001", "step-00000002"}, "room was made"
    assert torch.equal(case.run(tmp_path, resume=True), whole)

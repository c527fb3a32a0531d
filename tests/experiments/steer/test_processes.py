"""`steer` under `torchrun`: a rank that dies, a restart that goes on, and one voice."""

import json
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro

from experiments.shared.metrics_file import read_metrics
from experiments.shared.run_folder import RunFolder
from experiments.steer import processes
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from experiments.steer.checks import check
from experiments.steer.processes import Launch, first_speaks, joined
from model.common import ranks
from model.prior.grammar import PROMPTS

ROOT = Path(__file__).parents[3]

MORTAL = '''
import glob
import os
import signal


def short(texts):
    """Kill the last rank of the first attempt after three steps."""
    is_first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    if is_first_attempt and os.environ["RANK"] == "1" and glob.glob(CHECKPOINTS):
        os.kill(os.getpid(), signal.SIGKILL)
    return [-0.1 * len(text.split()) for text in texts]
'''
"""File of a reward that ends its process."""
SIZES = "--steps 8 --particles 8 --samples 16 --prior-draws 16 --checkpoint-every 1"


def options(prior_folder: Path, folder: Path) -> list[str]:
    """Command line of a run, whose reward kills a rank if there are several."""
    checkpoints = f"{folder}/runs/*/checkpoints/step-00000003"
    (folder / "reward.py").write_text(MORTAL.replace("CHECKPOINTS", repr(checkpoints)))
    files = ["--prior", str(prior_folder), "--reward", f"function:{folder / 'reward.py'}:short"]
    return [*SIZES.split(), *files, "--prompts", *PROMPTS, "--out", str(folder / "runs")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "launch"), [(None, "python"), ("both", "torchrun --nproc-per-node 2")]
)
def test_a_rank_that_dies_ends_the_attempt_and_the_next_goes_on_in_its_folder(
    grammar_folder, tmp_path, shard, launch
):
    words = options(grammar_folder, tmp_path)
    module = "torch.distributed.run --nproc-per-node 2 --max-restarts 3 -m experiments.steer"
    command = [sys.executable, "-m", *module.split(), "--shard", str(shard), *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "failed (exitcode: -9) local_rank: 1" in run.stderr  # the cause, and not rank 0
    assert "learning rate" not in run.stderr, run.stderr
    assert f"To go on: {launch} -m experiments.steer --resume" in run.stderr
    attempts = run.stdout.count("run folder")
    assert attempts > 1, run.stdout
    if attempts > 2:  # the reward kills the first alone; the machine may kill others
        warnings.warn(f"{attempts} attempts: {run.stderr[-4000:]}", stacklevel=1)
    (folder,) = (tmp_path / "runs").iterdir()
    whole = main(tyro.cli(Steer, args=[*words[:-1], str(tmp_path / "whole")]))
    for resumed, expected in zip(
        read_metrics(folder / "metrics.jsonl"), read_metrics(whole.metrics), strict=True
    ):
        for name in ("step", "elbo", "kl", "grad_norm"):
            assert resumed[name] == pytest.approx(expected[name], rel=1e-3), name
    # of the last report, and of the interrupted report if the first rank had the time
    assert 1 <= run.stdout.count("nats per response") <= attempts
    assert (folder / "measurements.json").is_file()
    for place in (folder, whole.path):  # one process goes on alike, also without the shards
        main(Steer(resume=place, steps=9))
    ends = [read_metrics(place / "metrics.jsonl")[-1] for place in (folder, whole.path)]
    assert ends[0]["step"] == 9
    assert ends[0]["elbo"] == pytest.approx(ends[1]["elbo"], rel=1e-3)


ENDING = """
import atexit, os, sys
from experiments.steer.processes import ended_at_once

class Thread:
    __del__ = staticmethod(os.abort)  # called by the finalization

thread = Thread()
atexit.register(print, "exit functions")
with ended_at_once():
    print("the end", end=" ")
    sys.exit({code})
"""


@pytest.mark.parametrize(("code", "rank", "expected"), [(False, "1", 0), (2, "1", -6), (0, "", -6)])
def test_a_finished_rank_ends_without_the_finalization_of_the_interpreter(code, rank, expected):
    environment = {**os.environ, **({"RANK": rank} if rank else {})}
    command = [sys.executable, "-c", ENDING.format(code=code)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == expected, run.stderr
    assert run.stdout == "the end exit functions\n" or expected != 0


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined(None) as launch:
        assert launch.earlier is None
        assert ranks.num_ranks() == 1


@pytest.mark.parametrize(
    ("device", "fault"), [("cuda:1", "cuda:1 is one GPU"), (None, "has 1 GPUs"), ("cpu", None)]
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, device, fault):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(processes, "_join", lambda: sys.exit("joined"))
    with pytest.raises(SystemExit, match=fault or "joined"), joined(device):
        pass


def test_the_next_attempt_reads_the_folder_of_the_one_before(tmp_path):
    store = torch.distributed.HashStore()
    with Launch(store).folder(lambda: nullcontext(RunFolder(tmp_path))) as folder:
        assert Launch(store).earlier == folder.path == tmp_path


def test_several_processes_share_a_network_that_is_neither_merged_nor_compiled(monkeypatch):
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    args = Steer(shard="both", guide="lora")
    check(args)
    for option in ("merge", "compile"):
        with pytest.raises(SystemExit, match=f"^--{option} .*--shard"):
            check(replace(args, **{option: True}))


def test_other_ranks_are_silent_and_leave_their_error_to_torchrun(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    def refuse():
        print("not heard")
        print("--beta is 0", file=sys.stderr)
        raise SystemExit(2)

    with warnings.catch_warnings(), pytest.raises(SystemExit), first_speaks():
        refuse()
    assert capsys.readouterr() == ("", "")
    message = json.loads((tmp_path / "error.json").read_text())["message"]["message"]
    assert "--beta is 0" in message


def test_the_first_rank_is_heard(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    with first_speaks():
        print("heard")
    assert capsys.readouterr().out == "heard\n"

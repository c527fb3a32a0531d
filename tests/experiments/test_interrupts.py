"""Interrupts of a real process, and the fate of its workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROC = Path("/proc")
PATIENCE = 300
"""Seconds until a wait is given up; machines are busy, and imports slow. The runs take hours."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PROC / "self" / "stat").is_file(), reason="looks processes up in /proc"
    ),
]


@pytest.fixture
def start():
    """Start a script in a new process group, like a shell; the test ends all of the group."""
    started = []

    def start_it(*words):
        command = [sys.executable, "-m", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
        started.append(process)
        return process

    yield start_it
    for process in started:
        for pid in [process.pid, *group_of(process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


def stat(pid):
    """State, parent and group of a process, or None."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[2])


def group_of(group):
    """The living processes of a group."""
    pids = [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]
    return [
        pid for pid in pids if (status := stat(pid)) and status[0] != "Z" and status[2] == group
    ]


def wait(until):
    """Wait until a condition holds."""
    for _ in range(PATIENCE * 10):
        if status := until():
            return status
        time.sleep(0.1)
    raise AssertionError(f"not so after {PATIENCE} s")


def steps_of(folder):
    """Number of steps of the run in a folder; after step 7 the checkpoint of step 5 is whole."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("runs/*/metrics.jsonl"))


def test_a_signal_ends_a_fit_with_a_report_and_the_line_that_goes_on(start, tmp_path, prior):
    """One signal: all signals have one handler, `test_command_line.py`."""
    prior.save_pretrained(tmp_path / "prior")
    line = (
        "--max-new-tokens 3 --particles 4 --samples 20 --prior-draws 40 --threads 1 "
        "--checkpoint-every 5 --steps 1000000"
    )
    words = ["--prior", tmp_path / "prior", "--prompts", "the film was", "--out", tmp_path / "runs"]
    process = start("experiments.steer", *words, *line.split())
    wait(lambda: steps_of(tmp_path) > 7 or process.poll() is not None)
    process.terminate()
    out, err = process.communicate(timeout=PATIENCE)
    [folder] = (tmp_path / "runs").iterdir()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.rstrip().endswith(
        f"Ended by SIGTERM. To go on: python -m experiments.steer --resume {folder}"
    ), err
    assert "Traceback" not in err, err
    assert "interrupted after step" in out
    assert "From the guide so far" in (folder / "report.html").read_text()


def zoo(start, tmp_path):
    """Guide zoo with two workers that would run for hours."""
    line = (
        "--worlds eight-tokens --only tabular --seeds 2 --steps 1000000 --max-iter 1000000 "
        "--workers 2"
    )
    process = start("experiments.guide_zoo", *line.split(), "--out", tmp_path)
    wait(lambda: len(workers_of(process.pid)) == 2 or process.poll() is not None)
    return process


def workers_of(pid):
    """Processes that multiprocessing spawned for a process, without the resource tracker."""
    children = [child for child in group_of(pid) if (status := stat(child)) and status[1] == pid]
    return [
        child for child in children if b"spawn_main" in (PROC / str(child) / "cmdline").read_bytes()
    ]


def test_ctrl_c_ends_a_zoo_and_its_workers_at_once(start, tmp_path):
    process = zoo(start, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "Traceback" not in err, err
    # a process has closed its output, and so ended `communicate`, a moment before it is gone
    wait(lambda: not group_of(process.pid))


def test_workers_do_not_outlive_a_parent_that_was_killed(start, tmp_path):
    process = zoo(start, tmp_path)
    process.kill()
    process.wait()
    wait(lambda: not group_of(process.pid))


@pytest.mark.parametrize("line", ["kl_estimators --max-new-tokens 2", "steer --help"])
def test_a_script_of_which_nobody_reads_more_ends_without_a_word(start, line):
    name, *words = line.split()
    process = start(f"experiments.{name}", *words)
    process.stdout.close()
    process.wait(timeout=PATIENCE)
    assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE

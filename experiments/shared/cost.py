"""Cost of a step: its time, and the peak of the memory.

Steps that are timed take turns, so that other load on the machine falls on all of them alike.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI
from pyro.params.param_store import StateDict
from torch import Tensor

from inference.estimate import Estimate
from inference.programs import Program
from inference.svi.optimizer.fused import FusedOptimizer
from model import Prompts

Step = Callable[[], Any]
Seconds = tuple[float, float]
"""Seconds of CPU time and of wall time."""


class SVIStep:
    """A step of SVI in its own parameter scope, at a rate so low that the job stays the same."""

    def __init__(self, model: Program, guide: Program, objective: ELBO, prompts: Prompts) -> None:
        self.prompts = prompts
        self.svi = SVI(model, guide, FusedOptimizer(options={"lr": 1e-9}), objective)
        self.scope: StateDict = {"params": {}, "constraints": {}}

    def __call__(self) -> None:
        with pyro.get_param_store().scope(self.scope):
            self.svi.step(self.prompts)


def cheap_reward(prompts: Prompts, response: Tensor) -> Tensor:
    """A reward of token ids that costs no time and no memory, different for most responses."""
    return (response % 7).double().mean(-1)


def now() -> Seconds:
    """Read both clocks."""
    return time.process_time(), time.perf_counter()


def since(start: Seconds) -> Seconds:
    """Time since both clocks were read."""
    cpu, wall = now()
    return cpu - start[0], wall - start[1]


def take_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, list[Seconds]]:
    """Time each step once in each round. The first step of a round alternates."""
    times: dict[str, list[Seconds]] = {name: [] for name in steps}
    turns = list(steps.items())
    for _ in range(rounds):
        for name, step in turns:
            start = now()
            step()
            times[name].append(since(start))
        turns.reverse()
    return times


def ratio_of_means(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Our mean time divided by theirs, with the standard error over the rounds (delta method)."""
    own, other = torch.tensor([ours, theirs], dtype=torch.float64)  # [rounds]
    value = own.mean() / other.mean()
    return Estimate.of_influence(value[None], (own - value * other)[:, None] / other.mean())


def forget_peak() -> None:
    """Forget the peaks so far, such as the peak of loading: of GPUs, and on systems that can."""
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def peak_memory() -> float:
    """Peak of the resident memory of this process, MB."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1000
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

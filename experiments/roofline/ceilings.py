"""The two ceilings of a device, measured: arithmetic of a large matrix product, and bandwidth."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Self

import torch

from experiments.shared.cost import Step, take_turns

SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices of the product."""
BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Size of the copied buffer, beyond every cache."""


class Ceilings(NamedTuple):
    """Rates of a device that no step exceeds.

    Attributes:
        flops: floating-point operations a second, of a product of two square matrices.
        bandwidth: bytes a second, read and written, of a copy.
    """

    flops: float
    bandwidth: float

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> Self:
        """Ceilings of a device for matrices of one type."""
        side, size = SIDE.get(device.type, 4096), BYTES.get(device.type, 2**30)
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        product = median_seconds(lambda: left @ right, device, rounds=9)
        copy = median_seconds(lambda: target.copy_(source), device, rounds=9)
        return cls(2 * side**3 / product, 2 * size / copy)


def median_seconds(function: Step, device: torch.device, rounds: int) -> float:
    """Median seconds of a function."""
    return statistics.median(seconds_of([function], device, rounds)[0])


def seconds_of(functions: Sequence[Step], device: torch.device, rounds: int) -> list[list[float]]:
    """Seconds of each function in each round, after one call to warm up, the device waited for.

    Seconds of one CPU thread are CPU seconds, which other load on the machine does not count in.
    """

    def step(function: Step) -> None:
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    steps = {str(i): partial(step, function) for i, function in enumerate(functions)}
    take_turns(steps, 1)
    by_cpu = device.type == "cpu" and torch.get_num_threads() == 1
    times = take_turns(steps, rounds).values()
    return [[cpu if by_cpu else wall for cpu, wall in each] for each in times]

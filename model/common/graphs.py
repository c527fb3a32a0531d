"""Kernels that a GPU records once and then starts together, as one: CUDA graphs.

The CPU starts a kernel in several microseconds, a small kernel runs in one or two. A graph starts
hundreds of kernels at once. They run again on the same memory: inputs are copied to their places
before a replay, and results are in their places after it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

NOT_COMPILED = "leave compile_decode out"  # the fix of errors of graphs
SMALLEST = 16  # size of the graph of the fewest tokens


def has_graphs(device: torch.device) -> bool:
    """True if torch can record the kernels of a device: CUDA, and later accelerators by 2.13."""
    later = device.type not in ("cpu", "mps") and hasattr(torch.accelerator, "Graph")
    return device.type == "cuda" or later


@contextmanager
def lasting(has_gradient: bool = False) -> Iterator[None]:
    """Context of tensors that are written again later, also if the caller is in inference mode."""
    with torch.inference_mode(False), torch.set_grad_enabled(has_gradient):
        yield


def record(
    function: Callable[[], Any],
    device: torch.device,
    pool: Any = None,
    warm_up: Callable[[], Any] | None = None,
) -> tuple[Any, Any]:
    """The kernels of a function, recorded and not run, and what the function returned.

    Args:
        function: starts kernels. It neither waits for the device nor draws random numbers.
        device: a device that `has_graphs`.
        pool: `pool()` of another graph, whose memory this one shares where both agree: a replay of
            the one overwrites what only the other holds. None for memory of its own.
        warm_up: starts the same kernels before the recording, so that libraries allocate memory;
            None if they have run.

    Returns:
        A graph with `replay()` and `pool()`, and the result of the function, whose tensors each
        replay writes.

    Raises:
        RuntimeError: if the function does what a recording cannot hold.
    """
    try:
        if warm_up is not None:
            module = torch.get_device_module(device)
            current, side = module.current_stream(), module.Stream()
            side.wait_stream(current)
            with module.stream(side):
                for _ in range(2):
                    warm_up()
            current.wait_stream(side)
        if device.type == "cuda":
            graph: Any = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                return graph, function()
        graph = torch.accelerator.Graph(pool=pool)
        with torch.Stream(device), graph:
            return graph, function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason, _, _ = str(error).partition("\n")
        raise RuntimeError(f"kernels cannot be recorded: {reason}: {NOT_COMPILED}") from error


def sizes_of_graphs(largest: int) -> list[int]:
    """Numbers of tokens that have a graph: 16, 24, 32, 48, ..., two an octave, and the largest."""
    numbers, octave = [largest], SMALLEST
    while octave < largest:
        numbers += [octave, octave * 3 // 2]
        octave *= 2
    return sorted({min(number, largest) for number in numbers})

"""Two processes in a group of `torch.distributed`, which run functions of the tests together."""

import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import distributed as dist

from tests.forks import FORKS

RANKS = 2


class Group:
    """Processes that wait for functions."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        """Results of a function of a module on each rank; an error of a rank is raised."""
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, args, options)))
        answers = [pickle.loads(pipe.recv_bytes()) for pipe in self._pipes]
        for number, (_, error) in enumerate(answers):
            if error is not None:
                raise AssertionError(f"rank {number}: {error}")
        return [result for result, _ in answers]


@contextmanager
def started(folder: Path) -> Iterator[Group]:
    """A group of processes, which end with the context."""
    pipes, processes = [], []
    for number in range(RANKS):
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=_serve, args=(theirs, number, folder / "store"))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        yield Group(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(10)
            process.kill()


def _serve(pipe: Connection, number: int, store: Path) -> None:
    torch.set_num_threads(1)
    address = f"file://{store}"
    limit = timedelta(minutes=10)
    dist.init_process_group("gloo", address, limit, world_size=RANKS, rank=number)
    while True:
        try:
            function, args, options = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        try:
            answer = (function(*args, **options), None)
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
    dist.destroy_process_group()

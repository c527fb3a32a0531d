"""Threads of torch, and worker processes for many runs at once."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import TypeVar, cast

import torch
from transformers.utils import logging

from experiments.shared.refusals import is_refusal, one_line

J = TypeVar("J")
R = TypeVar("R")


def run_all(run: Callable[[J], R], jobs: Sequence[J], workers: int) -> Generator[R, None, None]:
    """Yield results in the order of the jobs. One worker runs in this process."""
    if workers == 1:
        yield from map(run, jobs)
        return
    size, spawn = min(workers, len(jobs)), get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(size, mp_context=spawn, initializer=start_worker) as pool:
        try:
            with _blocked_in_children(signal.SIGINT):
                futures = [pool.submit(_run_in_worker, run, job) for job in jobs]
            for future in futures:
                yield future.result()
        except BaseException as error:  # interrupts too
            for process in active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                problem = "a worker ended before its run did, for want of memory?"
                raise SystemExit(f"{problem} Ask for fewer --workers") from error
            raise


def start_worker() -> None:
    """Give a worker one thread, and end the worker when its parent ends."""

    def end_with_parent() -> None:
        cast(BaseProcess, parent_process()).join()
        os._exit(1)

    logging.disable_progress_bar()  # of transformers, as in `run_script`
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_in_worker(run: Callable[[J], R], job: J) -> R:
    """Run a job; a refusal becomes SystemExit, since its traceback is lost on the way back."""
    try:
        return run(job)
    except Exception as error:
        if is_refusal(error):
            raise SystemExit(f"{job}: {one_line(error)}") from error
        raise


@contextmanager
def _blocked_in_children(signum: signal.Signals) -> Iterator[None]:
    """Block a signal in the processes that start inside; in this process the signal waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

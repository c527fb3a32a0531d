"""What the zoos share: many runs over processes, a line on disk for each as it ends, and tables of means over seeds."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from experiments.shared.command_line import going_on, is_refusal, one_line
from experiments.shared.worlds import World
from inference import entropy

J = TypeVar("J")
R = TypeVar("R")


def run_all(run: Callable[[J], R], jobs: Sequence[J], workers: int) -> Generator[R, None, None]:
    """Results in the order of the jobs: in this process for one worker, else each worker in one of its own."""
    if workers == 1:
        yield from map(run, jobs)
        return
    spawn = get_context("spawn")  # CUDA bears no fork
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=spawn, initializer=start_worker
    ) as pool:
        try:
            with _kept_from_children(signal.SIGINT):
                ended = [pool.submit(_in_worker, run, job) for job in jobs]
            for future in ended:
                yield future.result()
        except BaseException as error:  # an interrupt among them
            for process in active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise SystemExit(
                    "a worker ended before its run did, for want of memory? Ask for fewer --workers"
                ) from error
            raise


def run_and_write(run: Callable[[J], R], jobs: Sequence[J], workers: int, path: Path) -> list[R]:
    """The results, dataclasses, each also a line of JSON at `path` as soon as it is there."""
    results: list[R] = []
    print(
        f"{len(jobs)} runs, {min(workers, len(jobs))} at a time; each is written to {path} as it ends"
    )
    there = going_on(
        lambda: f"The {len(results)} of {len(jobs)} runs that had ended are in {path}."
    )
    with path.open("w") as file, there, closing(run_all(run, jobs, workers)) as ended:
        for result in tqdm(ended, total=len(jobs), desc="zoo", unit="run"):
            results.append(result)
            fields: Any = result
            file.write(json.dumps(asdict(fields)) + "\n")
            file.flush()
    return results


def start_worker() -> None:
    """A worker has one thread, since all share the cores, and ends when its parent does, however that ends."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_worker(run: Callable[[J], R], job: J) -> R:
    """A run; what it refuses goes to the parent as a refusal, since the place where it was raised does not."""
    try:
        return run(job)
    except Exception as error:
        if is_refusal(error):
            raise SystemExit(f"{job}: {one_line(error)}") from error
        raise


@contextmanager
def _kept_from_children(signum: signal.Signals) -> Iterator[None]:
    """Processes that are started inside never get a signal: Ctrl-C reaches all, and the parent ends its children itself."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signum}
    )  # children inherit it; here the signal waits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mean_and_error(runs: Iterable[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Mean over runs of what is measured under a name, and its standard error (NaN for one run); both NaN for none."""
    values = np.array([measured.get(name, math.nan) for measured in runs])
    if not len(values):
        return math.nan, math.nan
    error = (
        values.std(ddof=1) / math.sqrt(len(values))
        if len(values) > 1 and np.isfinite(values).all()
        else math.nan
    )
    return float(values.mean()), float(error)


def cell(mean: float, error: float = math.nan) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.3g}" if math.isnan(error) else f"{mean:.3g} ± {error:.1g}"


def text_table(columns: Sequence[str], rows: Mapping[str, Sequence[str] | str]) -> str:
    """One line for each row: its name, then its cells under the columns; or a text in their place."""
    if not rows:
        return "nothing was run"
    name_width = max(map(len, rows))
    cells = [row for row in rows.values() if not isinstance(row, str)]
    widths = [max(map(len, texts)) for texts in zip(columns, *cells, strict=True)]

    def line(name: str, texts: Sequence[str]) -> str:
        return f"{name:{name_width}}  " + "  ".join(
            f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)
        )

    lines = [
        f"{name:{name_width}}  {row}" if isinstance(row, str) else line(name, row)
        for name, row in rows.items()
    ]
    return "\n".join([line("", columns), *lines])


def reference(world: World) -> str:
    """The posterior itself, in one line."""
    if world.truth is not None:
        log_p = world.truth.log_posterior
        reward = (log_p.exp() * world.truth.log_likelihood).sum(0).mean().item() * world.model.beta
        nats = entropy(log_p).mean().item()
        return f"log Z {world.truth.log_z.mean().item():.4f}; of the posterior, E[r] {reward:.4f}, entropy {nats:.4f}"
    assert world.prior_sample is not None
    sample = world.prior_sample
    estimate = sample.mean(sample.log_likelihood, sample.log_likelihood).times(world.model.beta)
    return f"log Z {world.prior_sample.log_z()}; of the posterior, E[r] {estimate}"

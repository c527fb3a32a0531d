"""What the zoos share: many runs over processes, a line on disk for each as it ends, and tables of means over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from experiments.worlds import World
from inference import entropy

J = TypeVar("J")
R = TypeVar("R")


def run_all(run: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[R]:
    """Results in the order of the jobs: in this process for one worker, else each worker in one of its own."""
    if workers == 1:
        yield from map(run, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:  # CUDA bears no fork
        yield from pool.map(run, jobs)


def run_and_write(run: Callable[[J], R], jobs: Sequence[J], workers: int, path: Path) -> list[R]:
    """The results, dataclasses, each also a line of JSON at `path` as soon as it is there."""
    results = []
    with path.open("w") as file:
        for result in tqdm(run_all(run, jobs, workers), total=len(jobs), desc="zoo", unit="run"):
            results.append(result)
            fields: Any = result
            file.write(json.dumps(asdict(fields)) + "\n")
            file.flush()
    return results


def one_thread() -> None:
    """Workers share the cores."""
    torch.set_num_threads(1)


def mean_and_error(runs: Iterable[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Mean over runs of what is measured under a name, and its standard error (NaN for one run); both NaN for none."""
    values = np.array([measured.get(name, math.nan) for measured in runs])
    if not len(values):
        return math.nan, math.nan
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 and np.isfinite(values).all() else math.nan
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
        return f"{name:{name_width}}  " + "  ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))

    lines = [f"{name:{name_width}}  {row}" if isinstance(row, str) else line(name, row) for name, row in rows.items()]
    return "\n".join([line("", columns), *lines])


def reference(world: World) -> str:
    """The posterior itself, in one line."""
    if world.truth is not None:
        log_p = world.truth.log_posterior
        reward = (log_p.exp() * world.truth.log_evidence).sum(0).mean().item() * world.model.beta
        nats = entropy(log_p).mean().item()
        return f"log Z {world.truth.log_z.mean().item():.4f}; of the posterior, E[r] {reward:.4f}, entropy {nats:.4f}"
    assert world.prior_draws is not None
    estimate = world.prior_draws.posterior_log_evidence().times(world.model.beta)
    return f"log Z {world.prior_draws.log_z()}; of the posterior, E[r] {estimate}"

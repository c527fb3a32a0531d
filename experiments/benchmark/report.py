"""Tables of the benchmark: time of a step, and time of its parts."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark.steps import LAYERS, PROMPT, WIDTH, WORDS, Benchmark, ByHand
from experiments.benchmark.trl_trainer import TRL
from experiments.shared.cost import Seconds, Step, ratio_of_means
from experiments.shared.tables import cell, text_table
from inference import FusedOptimizer
from model import ResponseDistribution

OURS, BY_HAND = "ours, SVI.step", "by hand, torch"
AT_MOST = {BY_HAND: 0.97, TRL: 0.65}
"""Claimed upper limits of our time as a fraction of the other's."""
REST = "Pyro and all else"


def scoring(log_prob: Tensor) -> str:
    """Name of the part that computed a log probability."""
    return "scoring, guide" if log_prob.requires_grad else "scoring, prior"


CALLS: list[tuple[Any, str, Callable[[Any], str]]] = [
    (ResponseDistribution, "sample", lambda _: "sampling"),
    (ByHand, "sample", lambda _: "sampling"),
    (ResponseDistribution, "log_prob", scoring),
    (ByHand, "log_prob", scoring),
    (Tensor, "backward", lambda _: "backward"),
    (FusedOptimizer, "__call__", lambda _: "optimiser"),
    (ByHand, "update", lambda _: "optimiser"),
]
"""Methods that are timed, each with a function from its result to the name of the part."""


@contextmanager
def stopwatch(
    owner: Any, name: str, label: Callable[[Any], str], seconds: dict[str, float]
) -> Iterator[None]:
    """Within the context, add the CPU seconds of each call of `owner.name` to its part."""
    original = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        result = original(*args, **kwargs)
        seconds[label(result)] = seconds.get(label(result), 0.0) + time.process_time() - began
        return result

    setattr(owner, name, watched)
    try:
        yield
    finally:
        setattr(owner, name, original)


def time_parts(steps: Mapping[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of the parts of each step, medians over rounds of their own."""
    records: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds: dict[str, float] = {}
            with ExitStack() as stack:
                for owner, method, label in CALLS:
                    stack.enter_context(stopwatch(owner, method, label, seconds))
                began = time.process_time()
                step()
                total = time.process_time() - began
            records[name].append(seconds | {REST: total - sum(seconds.values())})
    parts = ("sampling", "scoring, guide", "scoring, prior", "backward", "optimiser", REST)
    return {
        name: {part: statistics.median(record[part] for record in of_step) for part in parts}
        for name, of_step in records.items()
    }


def report(
    times: Mapping[str, Sequence[Seconds]],
    parts: Mapping[str, Mapping[str, float]],
    args: Benchmark,
) -> str:
    """Both tables as a text."""
    rows: dict[str, list[str] | str] = {}
    clocks = {name: list(zip(*seconds, strict=True)) for name, seconds in times.items()}
    for name, both in clocks.items():  # CPU and wall
        fractions = ["-", "-", "-"]
        if name in AT_MOST:
            ratios = map(ratio_of_means, clocks[OURS], both)
            fractions = [*(cell(*each) for each in ratios), f"<= {AT_MOST[name]:.2f}"]
        rows[name] = [*(f"{statistics.fmean(clock):.4f}" for clock in both), *fractions]
    if TRL not in times:
        rows[TRL] = "is not installed: `make bench` installs it and runs this again"
    total = {name: sum(seconds.values()) for name, seconds in parts.items()}
    shares = {
        part: [f"{own[part]:.4f} {own[part] / total[name]:4.0%}" for name, own in parts.items()]
        for part in parts[OURS]
    }
    columns = ["CPU", "wall", "ours / this, CPU", "wall", "claimed"]
    return (
        f"GPT-2 of {LAYERS} layers, width {WIDTH}, {WORDS} tokens; "
        f"{args.sequences} sequences of {args.tokens} tokens\n"
        f"after a prompt of {len(PROMPT.split())}; one gradient step; threads: "
        f"{torch.get_num_threads()}.\n"
        f"Seconds a step, and ratios ± standard errors, means of {args.rounds} rounds.\n\n"
        f"{text_table(columns, rows)}\n\n"
        f"Parts of a step, CPU seconds and shares\n{text_table(list(parts), shares)}"
    )

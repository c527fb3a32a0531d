"""Live view of a fit: `RUN/live.html`, a page that reads `RUN/live.js` again every second.

The page opens by a double click and needs no server. The fit writes, and never waits for a reader.
"""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from experiments.shared.run_folder import page_of
from experiments.steer.report import Sample
from experiments.steer.views import RunSoFar
from inference import PriorSample
from inference.svi.response_metrics import Metrics
from model import AlignmentModel
from model.common.files import write_atomically
from model.common.sharded_tensors import is_sharded

PERIOD = 1.0
"""Least number of seconds between two versions."""
SHARE = 0.05
"""Largest share of the run's time that the page takes."""
MOST_POINTS = 400
"""Largest number of points of a curve. Of more steps, every second, third, ... is shown."""
CURVES = ("elbo", "kl", "reward")


class LivePage:
    """Function of the metrics of each step, which writes the page now and then.

        with LivePage(run, budget) as page:
            fit(model, guide, prompts, **budget, on_step=page)

    A fit is the same with the page: `fit` keeps the draws of `on_step` apart. Sharded models, which
    draw with all ranks, show no samples. A failure to write warns once.

    Args:
        run: the run.
        budget: one of `num_steps`, `num_responses` and `max_seconds` with its number.
    """

    def __init__(self, run: RunSoFar, budget: Mapping[str, float]) -> None:
        self.run, self.budget, model = run, budget, run.model
        parameters = [*model.prior.parameters(), *run.guide.parameters()]
        self._draws = not any(is_sharded(parameter) for parameter in parameters)
        self._start = self._written = self._sampled = time.perf_counter()
        self._first: tuple[float, Metrics] | None = None  # time and metrics of the first step
        self._latest: Metrics | None = None
        self._cost = 0.0  # seconds of the last samples
        self._samples: list[Sample] = []
        self._curves: dict[str, list[float]] = {name: [] for name in ("step", *CURVES)}
        self._stride, self._failed = 1, False
        log_z = run.prior_sample.log_z()
        self._constant: dict[str, Any] = {
            "log_z": [log_z.value, log_z.standard_error],
            "warnings": run.warnings,
            "before": run.before.value,
            "start": run.start,
            "frontier": [],
        }
        if model.rewards and not model.factors:
            self._constant["frontier"] = frontier(run.prior_sample, model)
        self._write("starting")
        self._attempt("live.html", page_of("steer/live/page.html", title=run.title))
        print(f"watch {run.folder.path / 'live.html'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._write("finished" if kind is None else "interrupted")

    def __call__(self, metrics: Metrics) -> None:
        """Add a step, and write the page if it is time."""
        now, self._latest = time.perf_counter(), metrics
        self._first = self._first or (now, metrics)
        if metrics["step"] % self._stride == 0:
            self._add(metrics)
        if now - self._written < PERIOD:
            return
        if self._draws and now - self._sampled > self._cost / SHARE:
            self._samples = self.run.samples()
            self._sampled = time.perf_counter()
            self._cost = self._sampled - now
        self._write("running")

    def _add(self, metrics: Metrics) -> None:
        for name, values in self._curves.items():
            values.append(metrics.get(name, math.nan))
        if len(self._curves["step"]) > MOST_POINTS:
            self._stride *= 2
            self._curves = {name: values[1::2] for name, values in self._curves.items()}

    def _write(self, state: str) -> None:
        version = self._constant | {
            "state": state,
            "step": self._latest["step"] if self._latest else 0,
            "elapsed": time.perf_counter() - self._start,
            "left": self._left(),
            "curves": self._curves,
            "samples": self._samples,
        }
        self._attempt("live.js", f"show({json.dumps(_finite(version))})\n")
        self._written = time.perf_counter()

    def _left(self) -> float | None:
        """Seconds to the end of the budget at the pace since the first step; None if unknown."""
        now, [(unit, total)] = time.perf_counter(), self.budget.items()
        if unit == "max_seconds":
            return max(0.0, total - (now - self._start))
        if self._first is None or self._latest is None:
            return None
        start, first = self._first
        name = "step" if unit == "num_steps" else unit
        done = self._latest[name] - first[name]
        return (now - start) / done * max(0.0, total - self._latest[name]) if done else None

    def _attempt(self, name: str, content: str) -> None:
        try:
            write_atomically(self.run.folder.path / name, content)
        except OSError as error:
            if not self._failed:
                warnings.warn(f"the live view is not written: {error}", stacklevel=2)
            self._failed = True


def frontier(sample: PriorSample, model: AlignmentModel) -> list[tuple[float, float, bool]]:
    """KL(p || p0), nats, and E[r] of the posteriors of other betas; True for the model's own."""
    beta, factors = model.beta, np.logspace(-1.5, 1.2, 40).tolist()
    points = [(kl, beta * mean, False) for kl, mean in sample.frontier(factors)]
    [(kl, mean)] = sample.frontier([1.0])
    return [*points, (kl, beta * mean, True)]


def _finite(value: Any) -> Any:
    """The same data with None for numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

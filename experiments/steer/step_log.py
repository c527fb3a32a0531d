"""Log of the steps of a run: each record goes to `metrics.jsonl`, with the time of the step."""

import time

from experiments.shared.run_folder import RunFolder
from inference.svi.step import Metrics


class StepLog:
    """Function of the metrics of each step, for `fit(on_step=...)`.

    Args:
        folder: run folder, whose `metrics.jsonl` gets a line for each step.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._last = time.perf_counter()

    def __call__(self, metrics: Metrics) -> None:
        """Write the metrics of a step, and `step_time`, the seconds since the step before."""
        now = time.perf_counter()
        record = metrics | {"step_time": now - self._last}
        self._last = now
        self.folder.append_metrics(record)

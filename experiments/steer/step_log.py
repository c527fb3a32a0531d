"""Log of a run: each step goes to `metrics.jsonl` with its time, and from there to the trackers."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.shared.run_folder import RunFolder
from experiments.steer.live.page import LivePage
from experiments.steer.report import Sample
from inference.svi.response_metrics import Metrics
from inference.svi.trackers import Trackers

COLUMNS = ("origin", "completion", "reward")


def new_trackers(names: Sequence[str], folder: RunFolder, *, is_resumed: bool) -> Trackers:
    """Trackers of a run, with the arguments as saved, which have no path of this machine."""
    config: dict[str, Any] = json.loads(folder.arguments.read_bytes())["arguments"]
    name, path = folder.path.name, folder.path
    return Trackers(names, name, folder=path, config=config, is_resumed=is_resumed)


class StepLog:
    """Function of the metrics of each step, for `fit(on_step=...)`.

    Args:
        folder: run folder, whose `metrics.jsonl` gets a line for each step.
        trackers: trackers, which get the same records.
        page: live view, which gets the metrics; None without.
    """

    def __init__(self, folder: RunFolder, trackers: Trackers, page: LivePage | None) -> None:
        self.folder, self.trackers, self.page = folder, trackers, page
        self._last = time.perf_counter()

    def __call__(self, metrics: Metrics) -> None:
        """Write the metrics of a step, and `step_time`, the seconds since the step before."""
        now = time.perf_counter()
        record = metrics | {"step_time": now - self._last}
        self._last = now
        self.folder.append_metrics(record)
        self.trackers(record)
        if self.page is not None:
            self.page(metrics)

    def completions(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Pass on the table of completions to the trackers."""
        pairs = [(origin, *sample) for origin, texts in samples.items() for sample in texts]
        self.trackers.table("completions", COLUMNS, pairs)

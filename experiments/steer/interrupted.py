"""Report of an interrupted run: the curves, means over the last steps, and samples of the guide.

Nothing is measured, so that the report takes seconds. `--resume` goes on, and replaces the report.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.shared.run_folder import RunFolder, element, html_figure
from experiments.steer.levels import Levels, Metrics
from experiments.steer.report import html_samples, html_table, sample_texts, samples_text
from inference import Estimate, PriorSample, Program, random_state
from inference.svi.metrics_file import read_metrics
from model import AlignmentModel, Prompts
from model.common import ranks

WINDOW = 10
"""Number of steps behind a mean."""
MOST_PROMPTS = 4
"""Largest number of prompts with samples."""
HEAD = ("nats per response", f"mean of the last {WINDOW} steps")
NAMES = {
    "reward": "E[r]",
    "kl": "KL(q || p0)",
    "elbo": "ELBO",
    "entropy": "entropy",
    "completions/mean_length": "tokens of a response",
}
"""Rows of the table, by metric."""


class Interrupted:
    """Report of a fit that Ctrl-C or another signal ends.

    Args:
        folder: run folder.
        title: title of the report.
        model: model of the run.
        guide: q.
        prompts: prompts to draw samples for; the first are taken.
        prior_sample: draws of the prior.
        before: ELBO of the prior, nats.
    """

    def __init__(
        self,
        folder: RunFolder,
        title: str,
        model: AlignmentModel,
        guide: Program,
        prompts: Prompts,
        prior_sample: PriorSample,
        before: Estimate,
    ) -> None:
        self.folder, self.title, self.prompts = folder, title, prompts[:MOST_PROMPTS]
        self.model, self.guide = model, guide
        self.prior_sample, self.before = prior_sample, before

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Write the report if the code inside is interrupted; a second interrupt ends at once."""
        try:
            yield
        except KeyboardInterrupt:
            try:
                if ranks.is_first():
                    with ranks.alone():  # the other ranks end
                        self.write()
            except Exception as error:  # the interrupt counts, with its hint on how to resume
                print(f"The report so far could not be written: {type(error).__name__}: {error}")
            raise

    def write(self) -> None:
        """Write and print the report, first without samples; nothing before the first step."""
        metrics = read_metrics(self.folder.metrics)
        if not metrics:
            return
        title = f"{self.title}, interrupted after step {metrics[-1]['step']}"
        rows = self.rows(metrics)
        parts = [element("p", "The run was interrupted, and nothing was measured.", "note")]
        parts += [html_table(rows, HEAD), *map(html_figure, self.figures(metrics))]
        self.folder.write_page(title, parts)
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:{width}}  {value}" for name, value in [HEAD, *rows]]
        print("", title, "", *lines, f"\nOpen {self.folder.report}.\n", sep="\n", flush=True)
        with random_state.measuring():
            texts = sample_texts(self.model, self.guide, self.prompts)
        samples = {"From the guide so far": texts}
        self.folder.write_page(title, [*parts, *html_samples(samples)])
        print(*samples_text(samples), sep="\n")

    def rows(self, metrics: Metrics) -> list[tuple[str, str]]:
        """Names and means of metrics, and the gap that is left by the draws of the prior."""
        means = {name: recent(metrics, name) for name in NAMES if name in metrics[-1]}
        rows = [(NAMES[name], str(mean)) for name, mean in means.items()]
        log_z = self.prior_sample.log_z()
        gap = log_z.minus(means["elbo"])
        return [*rows, ("log Z, prior draws alone", str(log_z)), ("KL(q || p*)", str(gap))]

    def figures(self, metrics: Metrics) -> Sequence[Path]:
        """Figures of the metrics so far."""
        from experiments.steer.figures import write_figures  # matplotlib takes time to import

        end = None if self.model.factors else (recent(metrics, "kl"), recent(metrics, "reward"))
        levels = Levels(self.prior_sample.log_z(), self.before, recent(metrics, "elbo"), end)
        return write_figures(self.folder, levels, self.prior_sample, self.model.beta)


def recent(metrics: Metrics, name: str) -> Estimate:
    """Mean of a metric over the last steps, with the standard error of their spread."""
    values = [record[name] for record in metrics[-WINDOW:]]
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Estimate(mean, error)

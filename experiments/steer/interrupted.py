"""Report of an interrupted run: the curves, means over the last steps, and samples of the guide.

Nothing is measured, so that the report takes seconds. `--resume` goes on, and replaces the report.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.shared.metrics_file import WINDOW, read_metrics, recent
from experiments.steer.report import MARK, samples_text, with_rewards
from experiments.steer.views import Metrics, RunSoFar
from model.common import ranks

HEAD = ("nats per response", f"mean of the last {WINDOW} steps")
NAMES = {
    "reward": "E[r]",
    "kl": "KL(q || p0)",
    "elbo": "ELBO",
    "entropy": "entropy",
    "completions/mean_length": "tokens of a response",
}
"""Rows of the table, by metric."""


@contextmanager
def reported(run: RunSoFar) -> Iterator[None]:
    """Write the report if the code inside is interrupted; a second interrupt ends at once."""
    try:
        yield
    except KeyboardInterrupt:
        try:
            if ranks.is_first():
                with ranks.alone():  # the other ranks end
                    write(run)
        except Exception as error:  # the interrupt counts, with its hint on how to resume
            print(f"The report so far could not be written: {type(error).__name__}: {error}")
        raise


def write(run: RunSoFar) -> None:
    """Write and print the report, first without samples; nothing before the first step."""
    metrics = read_metrics(run.folder.metrics)
    if not metrics:
        return
    title = f"{run.title}, interrupted after step {metrics[-1]['step']}"
    rows = mean_rows(run, metrics)
    page = {"head": HEAD, "rows": rows, "pictures": curves(run, metrics)}
    notes = [f"{MARK.strip()} {each}: log Z may be far off." for each in run.warnings]
    page["notes"] = ["The run was interrupted, and nothing was measured.", *notes]
    run.folder.write_page("steer/report.html", title, **page, samples={})
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in [HEAD, *rows]]
    print("", title, "", *lines, *notes, f"\nOpen {run.folder.report}.\n", sep="\n", flush=True)
    samples = {"From the guide so far": run.samples()}
    run.folder.write_page("steer/report.html", title, **page, samples=with_rewards(samples))
    print(*samples_text(samples), sep="\n")


def mean_rows(run: RunSoFar, metrics: Metrics) -> list[tuple[str, str]]:
    """Names and means of metrics, and the gap that is left by the draws of the prior."""
    means = {name: recent(metrics, name) for name in NAMES if name in metrics[-1]}
    rows = [(NAMES[name], str(mean)) for name, mean in means.items()]
    log_z = run.prior_sample.log_z()
    gap = log_z.minus(means["elbo"])
    both, mark = {"log Z, prior draws alone": log_z, "KL(q || p*)": gap}, MARK * bool(run.warnings)
    return [*rows, *((name, f"{estimate}{mark}") for name, estimate in both.items())]


def curves(run: RunSoFar, metrics: Metrics) -> Sequence[Path]:
    """Figures of the metrics so far."""
    from experiments.steer.figures import write_figures  # matplotlib takes time to import

    end = None if run.model.factors else (recent(metrics, "kl"), recent(metrics, "reward"))
    levels = run.prior_sample.log_z(), run.before, recent(metrics, "elbo")
    return write_figures(run.folder, run.prior_sample, run.model.beta, levels, end, run.start)

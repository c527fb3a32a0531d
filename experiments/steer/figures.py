"""Figures of a `steer` run, from the metrics of its steps and its measurements."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.shared import figures
from experiments.shared.figures import GUIDE, POSTERIOR, PRIOR, new_axes, smooth
from experiments.shared.metrics_file import read_metrics
from experiments.shared.run_folder import RunFolder
from experiments.steer.views import Metrics
from inference import Estimate, PriorSample


def write_figures(
    folder: RunFolder,
    prior_sample: PriorSample,
    beta: float,
    levels: tuple[Estimate, Estimate, Estimate],
    end: tuple[Estimate, Estimate] | None,
    start: str = "prior",
) -> list[Path]:
    """Draw the figures of a run as SVG files; none if no step has a finite ELBO.

    Args:
        levels: log Z, and the ELBO of the start and of the guide after the fit, nats.
        end: KL(q || p0) and E[r] of the guide; None for a model with factors, whose log likelihood
            is not r/beta.
        start: name of the start, `prior` or `student`.
    """
    records = read_metrics(folder.metrics)
    metrics = [each for each in records if math.isfinite(each["log_likelihood"] + each["elbo"])]
    if not metrics:
        return []
    drawn = {"elbo": elbo_figure(metrics, *levels, start)}
    if end is not None:
        drawn["reward_kl"] = reward_kl_figure(metrics, prior_sample, beta, end)
    return [figures.save(figure, folder.path / f"{name}.svg") for name, figure in drawn.items()]


def elbo_figure(
    metrics: Metrics, log_z: Estimate, before: Estimate, after: Estimate, start: str = "prior"
) -> Figure:
    """ELBO of every step and log Z; the difference is KL(q || p*)."""
    figure, axes = new_axes()
    steps = [record["step"] for record in metrics]
    elbo = [record["elbo"] for record in metrics]
    axes.plot(steps, elbo, color=GUIDE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(elbo), color=GUIDE, label="ELBO of the step, and its mean over ten")
    _point(axes, 0, before, PRIOR, f"ELBO of the {start} (± 2 s.e.)")
    _point(axes, steps[-1], after, GUIDE, "ELBO of the guide (± 2 s.e.)")
    axes.axhline(log_z.value, color=POSTERIOR, label="log Z (± 2 s.e.)")
    band = (log_z.value - 2 * log_z.standard_error, log_z.value + 2 * log_z.standard_error)
    axes.axhspan(*band, color=POSTERIOR, alpha=0.15, linewidth=0)
    title = "The gap between the ELBO and log Z is KL(q || p*)"
    axes.set(xlabel="SVI step", ylabel="nats", title=title)
    axes.legend(loc="best")
    return figure


def reward_kl_figure(
    metrics: Metrics, prior_sample: PriorSample, beta: float, end: tuple[Estimate, Estimate]
) -> Figure:
    """Reward against KL to the prior: trajectory of the guide, below the posteriors of all beta.

    `end` is KL to the prior and reward of the trained guide.
    """
    title = "No distribution is above the posteriors of every beta"
    places = {"guide at the end (± 2 s.e.)": end}
    figure, axes = figures.plane_figure(prior_sample, places, title, beta)
    kl = smooth([record["kl"] for record in metrics])
    reward = smooth([record["reward"] for record in metrics])
    label = "guide, step by step (mean over ten)"
    axes.plot(kl, reward, color=GUIDE, alpha=0.7, linewidth=1, label=label)
    axes.set_xlim(right=max(axes.get_xlim()[1], 1.1 * float(kl.max())))
    axes.legend(loc="best")
    return figure


def _point(axes: Axes, x: float, y: Estimate, color: str, label: str) -> None:
    """Point with an error bar of two standard errors."""
    axes.errorbar([x], [y.value], [2 * y.standard_error], color=color, fmt="o", label=label)

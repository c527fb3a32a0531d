"""Parts of figures that scripts share: colours, axes, the frontier of the posteriors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.shared.run_folder import new_folder
from inference import Estimate, PriorSample

mpl.style.use(Path(__file__).with_suffix(".mplstyle"))
PRIOR, GUIDE, POSTERIOR = "#666666", "#0072b2", "#d55e00"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG, PNG and PDF, close it, and return the path of the SVG."""
    for kind in (".png", ".pdf", ".svg"):
        figure.savefig(path.with_suffix(kind))
    plt.close(figure)
    return path


def save_all(args: Any, name: str, figures: Mapping[str, Figure]) -> None:
    """Write figures, by the name of their file, into a new run folder in `args.out`."""
    with new_folder(args, name) as folder:
        for file, figure in figures.items():
            save(figure, folder.path / f"{file}.svg")
    print(f"Figures: {folder.path}")


def new_axes(width: float = 6.4, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, in the style of all figures."""
    return plt.subplots(figsize=(width, height))


def palette(number: int) -> np.ndarray:
    """Colours that differ, `[number, 4]`; more than eight go from dark to light."""
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    many = plt.get_cmap("viridis")(np.linspace(0.0, 0.95, number))
    return mpl.colors.to_rgba_array(cycle[:number]) if number <= len(cycle) else many


def smooth(values: Sequence[float], window: int = 10) -> np.ndarray:
    """Mean of each value and up to `window - 1` values before it."""
    ends = range(1, len(values) + 1)
    return np.array([np.mean(values[max(0, end - window) : end]) for end in ends])


def plot_frontier(axes: Axes, prior_sample: PriorSample, beta: float) -> float:
    """Plot reward against KL to the prior for the posteriors of all beta, and of one beta.

    The sample of the prior has the log likelihood r/beta. Returns KL(p* || p0) at `beta`, nats.
    """
    _plot_posteriors(axes, prior_sample, beta, np.logspace(-1.5, 1.2, 60))
    kl_posterior, best = prior_sample.frontier([1.0])[0]
    axes.plot([kl_posterior], [beta * best], "o", color=POSTERIOR, label=f"p*, beta = {beta:g}")
    axes.set(title="No distribution is above the posteriors of every beta")
    return kl_posterior


def plane_figure(
    sample: PriorSample, places: Mapping[str, tuple[Estimate, Estimate]], title: str
) -> tuple[Figure, Axes]:
    """Reward against KL to the prior: the posteriors of all beta, and distributions ± 2 errors.

    The sample of the prior has the reward as log likelihood; `places`, KL(q || p0), nats, and E[r].
    """
    figure, axes = new_axes()
    _plot_posteriors(axes, sample, 1.0, np.logspace(-3, 2, 80))
    for (name, (kl, reward)), color in zip(places.items(), palette(len(places)), strict=True):
        error, kl_error = 2 * np.nan_to_num([reward.standard_error, kl.standard_error])
        place = [kl.value], [reward.value], [error], [kl_error]
        axes.errorbar(*place, color=color, fmt="o", markersize=4, label=name)
    furthest = max((kl.value for kl, _ in places.values()), default=0.0) or 1.0
    axes.set(xlim=(-0.05 * furthest, 1.1 * furthest), title=title)
    axes.legend(loc="lower right")
    return figure, axes


def _plot_posteriors(axes: Axes, sample: PriorSample, beta: float, scales: np.ndarray) -> None:
    kl, log_likelihood = zip(*sample.frontier(scales), strict=True)
    axes.plot(kl, beta * np.array(log_likelihood), color=POSTERIOR, label="p* of every beta")
    axes.set(xlabel="KL(q || p0), nats", ylabel="E[r]")

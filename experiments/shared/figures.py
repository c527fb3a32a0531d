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


def new_grid(number: int, height: float, **labels: str) -> tuple[Figure, list[Axes]]:
    """A figure with pairs of axes in two columns, of one scale each; labels of the outer axes."""
    rows, columns = -(-number // 2), min(2, number)
    figure = plt.figure(figsize=(6.6, 1.0 + height * rows))
    grid: list[Axes] = []
    for place in range(1, number + 1):
        shared = {"sharex": grid[0], "sharey": grid[0]} if grid else {}
        grid.append(figure.add_subplot(rows, columns, place, **shared, **labels))
        grid[-1].label_outer()
    return figure, grid


def looks(number: int) -> list[dict[str, Any]]:
    """Colour and marker of each of several curves or points; seven colours for each marker."""
    colors = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    places = (divmod(place, len(colors)) for place in range(number))
    return [{"color": colors[color], "marker": "os^Dv"[shape % 5]} for shape, color in places]


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Legend of the axes, in columns below the figure, which grows."""
    handles, labels = axes.get_legend_handles_labels()
    figure.set_figheight(figure.get_figheight() + 0.25 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def smooth(values: Sequence[float], window: int = 10) -> np.ndarray:
    """Mean of each value and up to `window - 1` values before it."""
    return np.array([np.mean(values[max(0, n - window) : n]) for n in range(1, len(values) + 1)])


def plane_figure(
    sample: PriorSample,
    places: Mapping[str, tuple[Estimate, Estimate]],
    title: str,
    beta: float | None = None,
) -> tuple[Figure, Axes]:
    """Reward against KL to the prior: the posteriors of all beta, and distributions ± 2 errors.

    Log likelihoods are r/beta, or r without a beta. `places` are KL(q || p0), nats, and E[r].
    """
    figure, axes = new_axes()
    kls, rewards = np.array(sample.frontier(np.logspace(-3, 2, 120))).T * [[1.0], [beta or 1.0]]
    axes.plot(kls, rewards, color=POSTERIOR, label="p* of every beta")
    furthest = max((kl.value for kl, _ in places.values()), default=1.0)
    if beta is not None:
        kl_posterior, best = sample.frontier([1.0])[0]
        star: Any = {"color": POSTERIOR, "markersize": 12, "label": f"p*, beta = {beta:g}"}
        axes.plot([kl_posterior], [beta * best], "*", **star)
        furthest = max(furthest, kl_posterior)
    for (name, (kl, reward)), look in zip(places.items(), looks(len(places)), strict=True):
        errors = 2 * np.nan_to_num([reward.standard_error, kl.standard_error])
        axes.errorbar(kl.value, reward.value, *errors, **look, linestyle="", label=name)
    furthest = furthest if furthest > 1e-6 else 1.0  # below, a KL of float32 is rounding
    axes.set(xlim=(-0.05 * furthest, 1.1 * furthest), title=title)
    axes.set(xlabel="KL(q || p0), nats", ylabel="E[r]")
    return figure, axes

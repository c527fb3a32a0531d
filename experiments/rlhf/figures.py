"""Figures of `experiments.rlhf`: gold reward against KL, and the reliability of a reward."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.shared.figures import GUIDE, PRIOR, new_axes
from inference.reward_posterior.calibration import Calibration

COLORS = {"mean": "#1f5fa8", "marginal-likelihood": "#c4451c"}
COLORS |= {"lower-bound": "#2e8b57", "minimum": "#8a5fb0"}

Line = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""KL, mean gold reward and its standard error."""


def over_optimisation_figure(
    panels: Mapping[str, Mapping[str, Line]], prior_gold: float, title: str
) -> Figure:
    """Gold reward against KL(p* || p0), +- 1 s.e.: a line for each aggregation in each panel."""
    size = 3.2 * len(panels), 3.4
    figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axes, (name, lines) in zip(row[0], panels.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(prior_gold, color=PRIOR, linewidth=0.8, linestyle="--")
        for aggregation, (kl, mean, error) in lines.items():
            color = COLORS.get(aggregation)
            axes.plot(kl, mean, color=color, label=aggregation)
            low, high = np.subtract(mean, error), np.add(mean, error)
            axes.fill_between(kl, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="KL(p* || p0), nats", title=name)
    row[0][0].set_ylabel("E[gold reward]")
    row[0][-1].legend(frameon=False, fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def reliability_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Share of right predictions by confidence; a calibrated reward is on the diagonal."""
    figure, axes = new_axes(4.6, 4.2)
    axes.plot([0.5, 1], [0.5, 1], color=PRIOR, linewidth=0.8, linestyle="--", label="calibrated")
    colors = plt.get_cmap("viridis")(np.linspace(0.1, 0.8, len(calibrations)))
    style: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1}
    for (name, calibration), color in zip(calibrations.items(), colors, strict=True):
        correct = calibration.correct
        error = (correct * (1 - correct) / calibration.count).sqrt()
        if len(calibrations) == 1:
            color = GUIDE
        axes.errorbar(calibration.confidence, correct, error, color=color, label=name, **style)
    axes.set(xlabel="confidence", ylabel="share predicted right", title="Held-out preferences")
    axes.legend(frameon=False, fontsize=8)
    return figure

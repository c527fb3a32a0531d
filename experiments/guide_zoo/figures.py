"""Figures of the guides: gaps, modes, and what a guide costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from experiments.shared.figures import (
    GUIDE,
    POSTERIOR,
    PRIOR,
    new_axes,
    palette,
    plot_frontier,
    smooth,
)
from inference import Estimate, PriorSample


class Gap(NamedTuple):
    """What a family leaves, and what the optimiser leaves on top of it, nats."""

    approximation: float
    inference: Estimate


class Tuned(NamedTuple):
    """A guide at the end of its fit, and its way there.

    Attributes:
        way: KL(q || p0) and E[r] of each step.
        kl_guide_prior: nats, as the other two KLs.
        reward: E[r].
        kl_guide_posterior: KL(q || p*).
        kl_posterior_guide: KL(p* || q).
        num_parameters: trained.
        seconds: of CPU, a step.
    """

    way: Sequence[Sequence[float]]
    kl_guide_prior: float
    reward: float
    kl_guide_posterior: Estimate
    kl_posterior_guide: Estimate
    num_parameters: float
    seconds: float


def gaps_figure(gaps: Mapping[str, Mapping[str, Gap]]) -> Figure:
    """For each KL and guide, what the family leaves and what the fit leaves in total; between them is the inference gap."""
    rows = max(len(of_kl) for of_kl in gaps.values())
    figure, every = plt.subplots(
        1, len(gaps), figsize=(5.2 * len(gaps), 1.4 + 0.28 * rows), squeeze=False, sharex=True
    )
    for axes, (title, of_kl) in zip(every[0], gaps.items(), strict=True):
        family = np.array([gap.approximation for gap in of_kl.values()])
        total = family + np.array([gap.inference.value for gap in of_kl.values()])
        error = 2 * np.array([gap.inference.standard_error for gap in of_kl.values()])
        below = np.minimum(
            error, 0.9 * total
        )  # a bar that reached 0 would leave a logarithmic axis
        axes.hlines(list(of_kl), family, total, color=PRIOR, linewidth=1)
        axes.plot(
            family,
            list(of_kl),
            "o",
            color=POSTERIOR,
            label="the family's optimum: approximation gap",
        )
        axes.errorbar(
            total,
            list(of_kl),
            xerr=[below, error],
            fmt="o",
            color=GUIDE,
            label="after SVI (± 2 s.e.)",
        )
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="nats", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    every[0, 0].legend(frameon=False, loc="lower left", fontsize=8)
    figure.tight_layout()
    return figure


def modes_figure(laws: Mapping[str, Tensor]) -> Figure:
    """Laws over two tokens, `[V, V]` each, the first token down and the second across. Id 0 is the end."""
    figure, every = plt.subplots(
        1, len(laws), figsize=(2.7 * len(laws), 3.1), squeeze=False, layout="constrained"
    )
    for axes, (title, law) in zip(every[0], laws.items(), strict=True):
        words = ["end", *(f"w{i}" for i in range(1, len(law)))]
        places = np.arange(len(words))
        mesh = axes.pcolormesh(
            places, places, law.sqrt(), cmap="Blues", vmin=0, vmax=1
        )  # cells stay cells, not pixels
        for i, j in law.gt(0.02).nonzero().tolist():
            probability = law[i, j].item()
            axes.text(
                j,
                i,
                f"{probability:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="w" if probability > 0.3 else "k",
            )
        axes.set_xticks(places, words, fontsize=7)
        axes.set_yticks(places, words, fontsize=7)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.set_title(title, fontsize=9)
    every[0, 0].set(xlabel="second token", ylabel="first token")
    bar = figure.colorbar(
        mesh, ax=list(every[0]), shrink=0.7, ticks=np.sqrt([0.01, 0.1, 0.3, 0.6, 1])
    )
    bar.ax.set_yticklabels(["0.01", "0.1", "0.3", "0.6", "1"], fontsize=7)
    return figure


def frontier_figure(guides: Mapping[str, Tuned], bank: PriorSample, beta: float) -> Figure:
    """Reward against KL to the prior: every guide's way and where it ended, below the frontier of the posteriors."""
    figure, axes = new_axes(8.0, 5.0)
    furthest = plot_frontier(axes, bank, beta)
    for (name, guide), color in zip(guides.items(), palette(len(guides)), strict=True):
        kl, rewards = (smooth(values) for values in zip(*guide.way, strict=True))
        axes.plot(kl, rewards, color=color, alpha=0.5, linewidth=0.8)
        axes.plot([guide.kl_guide_prior], [guide.reward], "o", color=color, label=name)
        furthest = max(furthest, guide.kl_guide_prior, float(kl.max()))
    axes.set(xlim=(-0.05 * furthest, 1.15 * furthest))
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def cost_figure(guides: Mapping[str, Tuned]) -> Figure:
    """Both KLs of every guide, ± 2 standard errors, against what it trains and what a step of it takes."""
    figure, every = plt.subplots(1, 2, figsize=(10.0, 4.2), sharey=True)
    for (name, guide), color in zip(guides.items(), palette(len(guides)), strict=True):
        for axes, cost in zip(every, (guide.num_parameters, guide.seconds), strict=True):
            for kl, marker in ((guide.kl_guide_posterior, "o"), (guide.kl_posterior_guide, "^")):
                label = name if marker == "o" else None
                axes.errorbar(
                    [cost],
                    [kl.value],
                    [2 * kl.standard_error],
                    color=color,
                    marker=marker,
                    linewidth=1,
                    linestyle="",
                    label=label,
                )
    every[0].set(
        xscale="log",
        xlabel="trained parameters",
        ylabel="nats; dots KL(q || p*), triangles KL(p* || q)",
        ylim=(0, None),
    )
    every[1].set(xlabel="CPU seconds a step", xlim=(0, None))
    every[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
    return figure

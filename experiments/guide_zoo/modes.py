"""Optima of two small families under both KL, on the world `two-modes`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.guide_zoo.runs import KL, OTHER
from experiments.shared.figures import new_grid
from experiments.shared.tables import cell, text_table
from experiments.shared.worlds import MODES, two_modes
from experiments.shared.zoo import Job, Result

WORLD = "two-modes"
NAMES = ("mean-field", "mean-fields-2")
"""Guides that are compared: one without both modes in its family, and one with both."""


def list_jobs(names: Sequence[str], max_iter: int) -> list[Job]:
    """The optimum of each guide under both KL."""
    names = [name for name in names if name in NAMES]
    return [Job(WORLD, name, max_iter, 0, None, direction) for name in names for direction in OTHER]


def report(results: Sequence[Result]) -> dict[str, Figure]:
    """Print a table of the optima. Returns the figure by name."""
    truth = two_modes().truth
    assert truth is not None
    posterior = table_of(truth.log_posterior[:, 0].exp())
    tables = {"p*": posterior}
    lines = {"p*": [*(f"{posterior[word, word]:.3f}" for word in MODES), *["-"] * 4]}
    for result in sorted(results, key=lambda result: NAMES.index(result.job.name)):
        job, measured = result.job, result.measured
        title = f"{job.name}, min {KL[job.direction]}"
        table = tables[title] = table_of(torch.tensor(result.probabilities, dtype=torch.float64))
        crossings = table[MODES[0], MODES[1]] + table[MODES[1], MODES[0]]
        names = ("kl_guide_posterior", "kl_posterior_guide", "worst_start")
        lines[title] = [f"{table[word, word]:.3f}" for word in MODES]
        lines[title] += [f"{crossings:.3f}", *(cell(measured[name]) for name in names)]
    modes = [f"w{word} w{word}" for word in MODES]
    print(text_table([*modes, "crossings", KL["reverse"], KL["forward"], "worst start"], lines))
    # both optima of the larger family look alike: one is drawn
    last = f"{NAMES[1]}, min {KL['forward']}"
    return {"modes": modes_figure({name: tables[name] for name in tables if name != last})}


def table_of(probabilities: Tensor) -> Tensor:
    """Probabilities of all responses `[S]` as a table of first and second token `[V, V]`.

    The end has token id 0, and so has the padding after the end.
    """
    truth, size = two_modes().truth, two_modes().model.prior.vocab_size
    assert truth is not None
    first, second = truth.support[:, 0].T
    table = torch.zeros(size, size, dtype=torch.float64)
    table[first, second] = probabilities
    return table


def modes_figure(tables: Mapping[str, Tensor]) -> Figure:
    """Probabilities of two tokens, `[V, V]` each: first token down, second token across."""
    figure, grid = new_grid(len(tables), 2.7, xlabel="second token", ylabel="first token")
    small: dict[str, Any] = {"fontsize": 10}
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        words = ["end", *(f"w{i}" for i in range(1, len(table)))]
        places = np.arange(len(words))
        # a mesh of cells: an image of pixels would be blurred
        mesh = axes.pcolormesh(places, places, table.sqrt(), cmap="Blues", vmin=0, vmax=1)
        for i, j in table.gt(0.02).nonzero().tolist():
            probability = table[i, j].item()
            color = "w" if probability > 0.3 else "k"
            axes.text(j, i, f"{probability:.2f}", ha="center", va="center", color=color, **small)
        axes.set_xticks(places, words, **small)
        axes.set_yticks(places, words, **small)
        axes.set_aspect("equal")
        axes.set_title(title.replace(", ", "\n"))
    grid[0].invert_yaxis()
    ticks = [0.01, 0.1, 0.3, 0.6, 1]
    bar = figure.colorbar(mesh, ax=grid, shrink=0.7, ticks=np.sqrt(ticks), label="probability")
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks], **small)
    figure.suptitle(
        "A small family takes one mode under KL(q || p*),\nand covers both under KL(p* || q)"
    )
    return figure

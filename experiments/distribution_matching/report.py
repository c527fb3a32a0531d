"""Table, findings and figure of the dissociation."""

import math
from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.distribution_matching.metrics import Row
from experiments.distribution_matching.tasks import GDC, PENALISED, PURE, Task
from experiments.shared.claims import Finding
from experiments.shared.figures import POSTERIOR, palette
from experiments.shared.tables import cell, text_table
from inference.targets.moments import MomentMatch

PRIOR, TARGET = "prior", "p*"
REACHED = 0.5
"""Share of the way from the prior to the goal. A method that works is further, by 3 errors."""
COLLAPSED = 0.5
"""Share of the distinct-2 of p*. With less, the language is lost."""


def table_of(rows: Mapping[str, Row]) -> str:
    """Table of the metrics of one constraint, by method."""
    columns = [name for name in rows[PRIOR] if name != "nearer"]
    cells = {
        name: [cell(*row[column]) if column in row else "-" for column in columns]
        for name, row in rows.items()
    }
    return text_table(columns, cells)


def lambda_finding(moments: MomentMatch) -> Finding:
    """Finding on lambda: log((1 - m)/m) + log(t/(1 - t)) for a prior's share m and a target t."""
    base, target = moments.base_moments["positive"].value, moments.targets["positive"]
    exact = math.log(target / (1 - target) * (1 - base) / base)
    error = abs(moments.multipliers["positive"] - exact)
    return Finding.of_limits("lambda, distance from its closed form", [error], below=1e-6)


def findings_of(goal: float, rows: Mapping[str, Row]) -> list[Finding]:
    """Findings on the dissociation, for one constraint and a goal for E[phi]."""
    prior, target, pure = rows[PRIOR], rows[TARGET], rows[PURE]
    start, distinct = prior["constraint"], target["distinct-2"].value

    def diversity(name: str, **limits: float) -> Finding:
        share = rows[name]["distinct-2"].value / distinct
        subject = f"goal {goal:.0%}, {name}, share of the distinct-2 of p*"
        return Finding.of_limits(subject, [share], **limits)

    away = pure["nearer"].times(-1)
    pure_met, self_bleu = pure["constraint"].value, pure["self-BLEU-5"].value
    subject = f"goal {goal:.0%}, {PURE}"
    findings = [
        Finding(
            f"{subject} meets {pure_met:.0%}, {away} nats further from p* than the prior",
            away.value > 3 * away.standard_error and pure_met > start.value,
        ),
        diversity(PURE, below=COLLAPSED),
        Finding(
            f"{subject} has self-BLEU {self_bleu:.2f}, p* {target['self-BLEU-5'].value:.2f}",
            self_bleu > target["self-BLEU-5"].value,
        ),
    ]
    for name in (GDC, PENALISED):
        row = rows[name]
        met, nearer = row["constraint"], row["nearer"]
        left, all_of_it = abs(met.value - goal), abs(start.value - goal)
        error = math.hypot(met.standard_error, start.standard_error)
        findings += [
            Finding(
                f"goal {goal:.0%}, {name} goes from {start.value:.0%} to {met.value:.0%}, "
                f"{1 - left / all_of_it:.0%} of the way (over {REACHED:.0%}, and by 3 errors)",
                left < (1 - REACHED) * all_of_it and all_of_it - left > 3 * error,
            ),
            Finding(
                f"goal {goal:.0%}, {name} is nearer to p* than the prior by {nearer} nats",
                nearer.value > 3 * nearer.standard_error,
            ),
            diversity(name, above=COLLAPSED),
        ]
    return findings


def dissociation_figure(rows: Mapping[Task, Mapping[str, Row]]) -> Figure:
    """Share of responses that meet each constraint against KL(p* || q), by method, ± 2 errors."""
    figure, every = plt.subplots(1, len(rows), figsize=(5.2 * len(rows), 4.0), squeeze=False)
    for axes, (task, of_task) in zip(every[0], rows.items(), strict=True):
        axes.axhline(task.goal, color=POSTERIOR, linestyle="--", linewidth=1, label="goal")
        shown = {name: row for name, row in of_task.items() if name != TARGET}
        for (name, row), color in zip(shown.items(), palette(len(shown)), strict=True):
            kl, met = row["KL(p*||q)"], row["constraint"]
            bars = {"xerr": [2 * kl.standard_error], "yerr": [2 * met.standard_error]}
            axes.errorbar([kl.value], [met.value], **bars, color=color, fmt="o", label=name)
        axes.set(xlabel="KL(p* || q), nats", ylabel="constraint met", title=task.name)
        axes.set(ylim=(-0.05, 1.08), xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
    every[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure

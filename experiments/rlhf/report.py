"""Report: tables, mean curves, findings and figures, and the measurement of the tuned guide."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.rlhf.learning import KLS, NUM_TEST, Run
from experiments.rlhf.text_sample import Curve, Gold, TextSample
from experiments.shared.claims import Finding, within
from experiments.shared.figures import PRIOR, legend_below, looks, new_axes, new_grid
from experiments.shared.run_folder import RunFolder
from experiments.shared.tables import Row, mean_and_error, table_of, text_table
from guides import Guide
from inference import Diagnostics, Estimate, diagnose, log_likelihood_at, response_distribution
from inference.reward_posterior.calibration import Calibration
from model import AlignmentModel, Prompts
from model.preferences import AGGREGATIONS

Line = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""KL, mean gold reward and its standard error."""

FAR = 2.0
"""KL(p* || p0) at which aggregations are compared, nats."""
FARTHEST = 6.0
"""KL(p* || p0) at which the curves of all responses end, nats."""


def mean_curves(curves: Sequence[Mapping[str, Curve]]) -> dict[str, Line]:
    """Mean gold reward by KL over data sets, for each aggregation.

    The line ends where the first curve of the data sets ends, or at `FARTHEST` if all have a limit.
    """
    lines: dict[str, Line] = {}
    for name, first in curves[0].items():
        of_name = [of_data_set[name] for of_data_set in curves]
        start = max(curve.kl[0].item() for curve in of_name)
        end = FARTHEST if first.has_limit else min(curve.kl[-1].item() for curve in of_name)
        grid = torch.linspace(start, end, 60).tolist()
        stats = [
            mean_and_error([{"gold": curve.gold_at(kl)} for curve in of_name], "gold")
            for kl in grid
        ]
        errors = [0.0 if math.isnan(error) else error for _, error in stats]
        lines[name] = (grid, [mean for mean, _ in stats], errors)
    return lines


def world_tables(runs: Sequence[Run], extent: str) -> list[str]:
    """Two tables of one world: recovery of the reward, and gold reward by KL, to some extent."""
    world, counts = runs[0].world, dict.fromkeys(run.num_preferences for run in runs)
    measured = {n: [run.measured for run in runs if run.num_preferences == n] for n in counts}
    names = ["correlation", "accuracy", "ece", "ece by chance"]
    ends = {"peak kl": "KL at its peak", "gain": "gain there", "fall": "lost at the end"}
    ends["proxy rise"] = "proxy's rise since"
    columns = {f"gold {kl:g}": f"gold at {kl:g}" for kl in KLS} | ends
    recovered: dict[str, Row] = {}
    gold: dict[str, Row] = {}
    for count, rows in measured.items():
        recovered[f"{count} preferences"] = {name: mean_and_error(rows, name) for name in names}
        for name in AGGREGATIONS:
            gold[f"{count}, {name}"] = {
                column: mean_and_error(rows, f"{name} {key}") for key, column in columns.items()
            }
    title = f"Gold reward at KL(p* || p0), {world} ({extent}), by preferences and aggregation"
    return [
        table_of(f"The reward, {world}: {NUM_TEST:,} held-out preferences", recovered),
        table_of(title, gold),
    ]


def findings(runs: Sequence[Run]) -> list[Finding]:
    """Parts of the claim, tested on the data sets of the world where every number is exact."""
    counts = sorted({run.num_preferences for run in runs})
    seeds = sorted({run.seed for run in runs})
    fewest, most = counts[0], counts[-1]

    def by_seed(name: str, sizes: Sequence[int]) -> np.ndarray:
        """Mean over data sets of these sizes, for each seed."""
        of_size = [run for run in runs if run.num_preferences in sizes]
        values = [[run.measured[name] for run in of_size if run.seed == seed] for seed in seeds]
        return np.array(values).mean(1)

    fall = by_seed("mean fall", [fewest]) - 0.1 * by_seed("mean gain", [fewest])
    gained = by_seed("mean gain", [most]) - by_seed("mean gain", [fewest])
    lost = by_seed("mean fall", [most]) - by_seed("mean fall", [fewest])
    gold = {name: by_seed(f"{name} gold {FAR:g}", counts) for name in AGGREGATIONS}
    above_0 = {
        f"with {fewest} preferences, gold reward lost beyond a tenth of its gain": fall,
        f"with {most} preferences, gold reward gained at the peak, above that of {fewest}": gained,
        f"with {most} preferences, gold reward lost from peak to end, above that of {fewest}": lost,
        f"at {FAR:g} nats, gold reward of the lower bound above the mean's": gold["lower-bound"]
        - gold["mean"],
        f"at {FAR:g} nats, gold reward of the minimum above the mean's": gold["minimum"]
        - gold["mean"],
        f"at {FAR:g} nats, gold reward of the marginal likelihood below the mean's": gold["mean"]
        - gold["marginal-likelihood"],
    }
    return [positive(subject, values) for subject, values in above_0.items()]


def positive(subject: str, values: np.ndarray) -> Finding:
    """The mean over seeds is above 0, clear of its noise; fails for fewer than two seeds."""
    mean = mean_and_error([{"value": value} for value in values], "value")
    return within(subject, mean, above=0.0, num_runs=len(values))


def write_report(folder: RunFolder, text: str, pictures: Sequence[Path]) -> None:
    """Print the report, and write it as text and as a page with the figures."""
    (folder.path / "report.txt").write_text(text + "\n", encoding="utf-8")
    folder.write_page("rlhf/report.html", "rlhf", text=text, pictures=pictures)
    page, reward = folder.report, folder.path / "reward"
    print(f"{text}\n\nOpen {page}; the reward is in {reward}, the guide in {folder.guide}.")


def measure(
    model: AlignmentModel,
    guide: Guide,
    prompts: Prompts,
    num_samples: int,
    gold: Gold | None = None,
    sample: TextSample | None = None,
) -> tuple[str, Diagnostics]:
    """Measure a guide.

    Returns:
        Table of rewards and KL for prior, guide, and the posterior if there is a sample for it; and
        the diagnostics of the guide.
    """
    prior, size = model.prior, torch.Size([num_samples])

    def rewards(response: Tensor) -> list[str]:
        values = [model.beta * log_likelihood_at(model, prompts, response).cpu()]
        if gold is not None:
            texts = [text for row in prior.decode(response, prompts) for text in row]
            values.append(gold(texts).view(num_samples, -1))
        return [str(Estimate.of_mean(value)) for value in values]

    proxy, *others = rewards(prior(prompts).sample(size))
    rows = {"prior": [proxy, "0", *others]}
    proxy, *others = rewards(response_distribution(guide, prompts).sample(size))
    diagnostics = diagnose(
        model, guide, prompts, num_samples=num_samples, num_prior_draws=num_samples
    )
    rows["guide"] = [proxy, str(diagnostics.kl_guide_prior), *others]
    if sample is not None:
        responses = sample.responses
        responses.check_unspent()
        log_weight = log_likelihood_at(model, prompts, responses.response).cpu()
        draws = responses.effective_sample_size(log_weight)
        source = "all responses" if draws is None else f"draws worth {draws:.0f}"
        proxy_hat = responses.mean(log_weight, model.beta * log_weight)
        gold_hat = responses.mean(log_weight, sample.gold[:, None])
        estimates = proxy_hat, responses.kl(log_weight), gold_hat
        rows[f"posterior, from {source}"] = [f"{estimate.value:.3f}" for estimate in estimates]
    columns = ["proxy reward", "KL to the prior", *["gold reward"] * (gold is not None)]
    return text_table(columns, rows), diagnostics


def over_optimisation_figure(
    panels: Mapping[str, Mapping[str, Line]], prior_gold: float, world: str
) -> Figure:
    """Gold reward against KL(p* || p0), ± 2 errors: a line for each aggregation in each panel."""
    figure, grid = new_grid(len(panels), 2.1, xlabel="KL(p* || p0), nats", ylabel="gold, log-odds")
    falls = False
    for axes, (name, lines) in zip(grid, panels.items(), strict=True):
        axes.axhline(prior_gold, color=PRIOR, linewidth=1, linestyle="--", label="prior")
        for (aggregation, line), look in zip(lines.items(), looks(len(lines)), strict=True):
            kl, mean, error = map(np.asarray, line)
            axes.plot(kl, mean, color=look["color"], label=aggregation)
            low, high = mean - 2 * error, mean + 2 * error
            axes.fill_between(kl, low, high, color=look["color"], alpha=0.15, linewidth=0)
            falls |= bool(mean.max() > high[-1])
        axes.set_title(name)
    gold = "rises with KL, then falls" if falls else "rises with KL"
    figure.suptitle(f"Steered by a learned reward, gold reward {gold}\n({world}; ± 2 s.e.)")
    legend_below(figure, grid[0], 3)
    return figure


def reliability_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Share of right predictions by confidence, ± 2 errors; calibrated on the diagonal."""
    figure, axes = new_axes(6.4, 4.2)
    axes.plot([0.5, 1], [0.5, 1], color=PRIOR, linewidth=1, linestyle="--", label="calibrated")
    style: dict[str, Any] = {"markersize": 4, "linewidth": 1}
    for (name, calibration), look in zip(
        calibrations.items(), looks(len(calibrations)), strict=True
    ):
        correct = calibration.correct
        error = 2 * (correct * (1 - correct) / calibration.count).sqrt()
        axes.errorbar(calibration.confidence, correct, error, **look, **style, label=name)
    axes.set(xlabel="confidence", ylabel="share predicted right (± 2 s.e.)")
    axes.set_title("A calibrated reward is on the diagonal:\nheld-out preferences, by confidence")
    legend_below(figure, axes)
    return figure

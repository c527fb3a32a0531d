"""Report: tables, mean curves and findings, and the measurement of the tuned guide."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.rlhf.learning import KLS, NUM_TEST, Run
from experiments.rlhf.text_sample import Curve, Gold, TextSample
from experiments.shared import claims
from experiments.shared.claims import Finding
from experiments.shared.run_folder import RunFolder, element, html_figure
from experiments.shared.tables import cell, mean_and_error, text_table
from guides import Guide
from inference import Estimate, diagnose, log_likelihood_at, response_distribution
from model import AlignmentModel, Prompts
from model.preferences import AGGREGATIONS

CLAIM = (
    "gold reward peaks and then falls as the posterior of a learned reward moves away from the "
    "prior, while the proxy goes on rising; more preferences and pessimism about the reward put "
    "the peak off; the marginal likelihood does the opposite"
)
SOURCE = (
    "Gao et al. 2022 (2210.10760); Coste et al. 2023 (2310.02743); the Gaussian integral "
    "E[exp(r/beta)]"
)
FAR = 2.0
"""KL(p* || p0) at which aggregations are compared, nats."""
FARTHEST = 6.0
"""KL(p* || p0) at which the curves of all responses end, nats."""

Line = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""KL, mean gold reward and its standard error."""


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
    ends = {
        "peak kl": "KL at its peak",
        "gain": "gain there",
        "fall": "lost at the end",
        "proxy rise": "proxy's rise since",
    }
    recovered: dict[str, list[str]] = {}
    gold: dict[str, list[str]] = {}
    for count, rows in measured.items():
        recovered[f"{count} preferences"] = [cell(*mean_and_error(rows, name)) for name in names]
        for name in AGGREGATIONS:
            keys = [*(f"{name} gold {kl:g}" for kl in KLS), *(f"{name} {end}" for end in ends)]
            gold[f"{count}, {name}"] = [cell(*mean_and_error(rows, key)) for key in keys]
    columns = [*(f"gold at {kl:g}" for kl in KLS), *ends.values()]
    return [
        f"The reward, {world}: {NUM_TEST:,} held-out preferences\n{text_table(names, recovered)}",
        f"Gold reward at KL(p* || p0), {world} ({extent}), by preferences and aggregation\n"
        + text_table(columns, gold),
    ]


def findings(runs: Sequence[Run]) -> list[Finding]:
    """Parts of the claim, tested on the data sets of the world where every number is exact."""
    counts = sorted({run.num_preferences for run in runs})
    seeds = sorted({run.seed for run in runs})
    fewest, most = counts[0], counts[-1]

    def by_seed(name: str, sizes: Sequence[int]) -> np.ndarray:
        """Mean over data sets of these sizes, for each seed."""
        values = [
            [
                run.measured[name]
                for run in runs
                if run.seed == seed and run.num_preferences in sizes
            ]
            for seed in seeds
        ]
        return np.array(values).mean(1)

    def more(name: str, than: str) -> bool:
        gold, other = (by_seed(f"{which} gold {FAR:g}", counts) for which in (name, than))
        return certainly_positive(gold - other)

    fall = by_seed("mean fall", [fewest]) - 0.1 * by_seed("mean gain", [fewest])
    later = by_seed("mean peak kl", [most]) - by_seed("mean peak kl", [fewest])
    return [
        Finding(
            f"with {fewest} preferences, gold reward falls by a tenth of its gain or more",
            certainly_positive(fall),
        ),
        Finding(f"with {most} gold reward peaks at a larger KL", certainly_positive(later)),
        Finding(
            f"at {FAR:g} nats the lower bound has more gold reward than the mean",
            more("lower-bound", "mean"),
        ),
        Finding("the minimum has more", more("minimum", "mean")),
        Finding("the marginal likelihood has less", more("mean", "marginal-likelihood")),
    ]


def certainly_positive(values: Iterable[float]) -> bool:
    """True if the mean is over two standard errors above 0; False for fewer than two values."""
    mean, error = mean_and_error([{"value": value} for value in values], "value")
    return mean - 2 * error > 0


def write_report(
    folder: RunFolder, tables: Sequence[str], findings: Sequence[Finding], pictures: Sequence[Path]
) -> None:
    """Print the report, and write it as text and as a page with the figures."""
    text = claims.report(CLAIM, SOURCE, tables, findings) if findings else "\n\n".join(tables)
    (folder.path / "report.txt").write_text(text + "\n", encoding="utf-8")
    folder.write_page("rlhf", [element("pre", text), *map(html_figure, pictures)])
    reward = folder.path / "reward"
    print(
        f"{text}\n\nOpen {folder.report}; the reward is in {reward}, the guide in {folder.guide}."
    )


def measure(
    model: AlignmentModel,
    guide: Guide,
    prompts: Prompts,
    num_samples: int,
    gold: Gold | None = None,
    sample: TextSample | None = None,
) -> str:
    """Table of rewards and KL: prior, guide, and the posterior if there is a sample for it."""
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
        log_weight = log_likelihood_at(model, prompts, responses.response).cpu()
        draws = responses.effective_sample_size(log_weight)
        source = "all responses" if draws is None else f"draws worth {draws:.0f}"
        estimates = [
            responses.mean(log_weight, model.beta * log_weight),
            responses.kl(log_weight),
            responses.mean(log_weight, sample.gold[:, None]),
        ]
        rows[f"posterior, from {source}"] = [f"{estimate.value:.3f}" for estimate in estimates]
    columns = ["proxy reward", "KL to the prior", *["gold reward"] * (gold is not None)]
    return text_table(columns, rows)

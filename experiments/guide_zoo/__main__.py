"""How much of the distance to the posterior is the family's, how much the optimiser's, and what does a guide cost?

    KL left by a trained guide = approximation gap (what the best guide of its family leaves) + inference gap (the rest)

Claim (Cremer et al. 2018, arXiv 1801.03558, there for encoders): the two can be told apart, and what is small differs from
family to family. And (Minka 2005): within a family too small, KL(q || p*) seeks a mode, and KL(p* || q) covers mass.
Printed, by world:

- `eight-tokens`, where every response is listed. For each KL and guide: the approximation gap, by descent on the exact KL; the
  inference gap of SVI at one budget, by leave-one-out or forward-kl; at the optimum the other KL, the entropy and E[r].
- `two-modes`: the optima of mean field and of a mixture under both KLs, with the mass they give to each mode.
- `film-reviews`, the embedded prior: for the guides that scale, trained parameters, CPU seconds a step, both KLs, E[r] and
  KL(q || p0), after the same few steps. The standard errors are of the measurement where there is one seed, and tell nothing of
  how another run would end.

Written: `results.jsonl`, a line for each run as it ends, and the figures. Where the exact KL has local minima, or its descent
did not reach the bottom, the approximation gap is a bound from above.

With its defaults it takes about half an hour on two cores, most of it on `eight-tokens`; `--seeds 1 --max-iter 150` takes half.

    python -m experiments.guide_zoo
    python -m experiments.guide_zoo --worlds eight-tokens --only lora-1 lora-8 --seeds 5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.guide_zoo import figures as guide_figures
from experiments.guide_zoo.family_optimum import Direction
from experiments.guide_zoo.figures import Gap, Tuned
from experiments.guide_zoo.runs import KL, MEASURE, OBJECTIVE, WORLDS, Job, Result, WorldName, run
from experiments.guide_zoo.variants import VARIANTS
from experiments.shared import figures
from experiments.shared.argument_types import (
    CORES,
    DISTINCT,
    Count,
    Only,
    Out,
    Seeds,
    Workers,
    check_only,
    count,
    used,
)
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.run_folder import new_folder
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.workers import run_and_write, some_jobs
from experiments.shared.worlds import MODES, film_reviews, reference, two_modes
from inference import Estimate

OTHER: dict[Direction, Direction] = {"reverse": "forward", "forward": "reverse"}
OF_TWO_MODES = ("mean-field", "mean-fields-2")
ON_TOKENS = used(lambda args: "eight-tokens" in args.worlds, "without the world eight-tokens")
TRAINED = used(
    lambda args: set(args.worlds) != {"two-modes"}, "where nothing is trained, on two-modes"
)
LISTED = used(
    lambda args: set(args.worlds) != {"film-reviews"}, "where there is no exact KL, on film-reviews"
)
ON_TEXT = used(lambda args: "film-reviews" in args.worlds, "without the world film-reviews")


@dataclass(frozen=True)
class GuideZoo(Arguments):
    """Compare variational families: what they can reach, what they do reach, and what it costs."""

    worlds: Annotated[tuple[WorldName, ...], DISTINCT] = tuple(WORLDS)
    """Which parts to run."""
    only: Only = ()
    """Guides by name; default all."""
    seeds: Annotated[Seeds, ON_TOKENS] = 3
    """Independent fits of each guide, on `eight-tokens`."""
    text_seeds: Annotated[Seeds, ON_TEXT] = 1
    """The same, on `film-reviews`."""
    steps: Annotated[Count, ON_TOKENS] = 300
    """Of SVI, on `eight-tokens`."""
    text_steps: Annotated[Count, ON_TEXT] = 40
    """Of SVI, on `film-reviews`."""
    particles: Annotated[int, count(2), TRAINED] = 64
    """Responses drawn a step."""
    max_iter: Annotated[Count, LISTED] = 300
    """Of L-BFGS, on the exact KL, from each start."""
    workers: Workers = CORES
    """Processes, each with one thread."""
    out: Out = Path("runs")
    """The run folder is made in here."""


def main(args: GuideZoo) -> list[Result]:
    jobs = list_jobs(args)
    with new_folder(args, "guide-zoo") as folder:
        results = run_and_write(run, jobs, args.workers, folder.path / "results.jsonl")
        for name in args.worlds:
            found = [result for result in results if result.job.world == name]
            print(f"\n{name}: {reference(WORLDS[name]())}")
            if not found:
                print("nothing was run")
                continue
            for figure_name, figure in REPORTS[name](found).items():
                print(figures.save(figure, folder.path / f"{figure_name}.svg"))
        return results


def list_jobs(args: GuideZoo) -> list[Job]:
    """Every run."""
    check_only(args.only, VARIANTS)
    wanted = [name for name in VARIANTS if not args.only or name in args.only]
    return some_jobs(
        [job for world in args.worlds for name in wanted for job in jobs_of(args, world, name)]
    )


def jobs_of(args: GuideZoo, world: WorldName, name: str) -> list[Job]:
    """The runs of one guide on one world; none where it is not compared."""
    optima = [Job(world, name, direction, None, args.max_iter, 0) for direction in OTHER]
    if world == "two-modes":
        return optima if name in OF_TWO_MODES else []
    if world == "film-reviews":
        fits = [
            Job(world, name, "reverse", seed, args.text_steps, args.particles)
            for seed in range(args.text_seeds)
        ]
        return fits if VARIANTS[name].text_rate is not None else []
    fits = [
        Job(world, name, direction, seed, args.steps, args.particles)
        for direction in OTHER
        for seed in range(args.seeds)
    ]
    return optima + fits if VARIANTS[name].listed_rate is not None else []


def gaps(found: Sequence[Result]) -> dict[str, Figure]:
    """Of `eight-tokens`: a table and a panel for each KL."""
    panels = {}
    for direction in OTHER:
        of_direction = [result for result in found if result.job.direction == direction]
        rows: dict[str, list[str] | str] = {}
        panel = {}
        for name in dict.fromkeys(result.job.variant for result in of_direction):
            best = next(
                result
                for result in of_direction
                if result.job.variant == name and result.job.seed is None
            ).measured
            tuned = [
                result
                for result in of_direction
                if result.job.variant == name and result.job.seed is not None
            ]
            fits = [result.measured for result in tuned if result.measured]
            approximation = best[MEASURE[direction]]
            total, error = mean_and_error(fits, MEASURE[direction])
            rows[name + notes_of(tuned)] = [
                f"{best['parameters']:,}",
                cell(approximation),
                cell(total - approximation, error),
                cell(total, error),
                cell(best[MEASURE[OTHER[direction]]]),
                cell(best["entropy"]),
                cell(*mean_and_error(fits, "entropy")),
                cell(best["reward"]),
                cell(*mean_and_error(fits, "seconds")),
            ]
            panel[name] = Gap(
                approximation, Estimate(total - approximation, 0.0 if math.isnan(error) else error)
            )
        columns = [
            "trained",
            "approximation gap",
            "inference gap",
            KL[direction],
            f"{KL[OTHER[direction]]} at optimum",
        ]
        print(f"\n{KL[direction]}, SVI by {OBJECTIVE[direction]}")
        print(
            text_table(
                [
                    *columns,
                    "entropy at optimum",
                    "entropy by SVI",
                    "E[r] at optimum",
                    "CPU s a step",
                ],
                rows,
            )
        )
        panels[f"{KL[direction]}, SVI by {OBJECTIVE[direction]}"] = panel
    return {"gaps": guide_figures.gaps_figure(panels)}


def modes(found: Sequence[Result]) -> dict[str, Figure]:
    """Of `two-modes`: a line for each optimum, and the laws side by side."""
    truth = two_modes().truth
    assert truth is not None
    support, size = truth.support[:, 0], two_modes().model.prior.vocab_size

    def table_of(law: Sequence[float]) -> Tensor:
        table = torch.zeros(
            size, size, dtype=torch.float64
        )  # the end is id 0 and padding is too: it has a cell of its own
        table[support[:, 0], support[:, 1]] = torch.tensor(law, dtype=torch.float64)
        return table

    laws = {"p*": table_of(truth.log_posterior[:, 0].exp().tolist())}
    lines = {"p*": [*(f"{laws['p*'][word, word]:.3f}" for word in MODES), *["-"] * 4]}
    for result in sorted(found, key=lambda result: OF_TWO_MODES.index(result.job.variant)):
        law, name = table_of(result.law), f"{result.job.variant}, min {KL[result.job.direction]}"
        crossings = law[MODES[0], MODES[1]] + law[MODES[1], MODES[0]]
        cells = [f"{law[word, word]:.3f}" for word in MODES] + [f"{crossings:.3f}"]
        measured = result.measured
        kls = [cell(measured["kl_guide_posterior"]), cell(measured["kl_posterior_guide"])]
        lines[name] = [*cells, *kls, cell(measured["worst_start"])]
        if result.job.variant == "mean-field" or result.job.direction == "reverse":
            laws[name] = law
    heavy, light = (f"w{word} w{word}" for word in MODES)
    print(
        text_table([heavy, light, "crossings", KL["reverse"], KL["forward"], "worst start"], lines)
    )
    return {"modes": guide_figures.modes_figure(laws)}


def costs(found: Sequence[Result]) -> dict[str, Figure]:
    """Of `film-reviews`: a table, the reward-KL plane and the costs."""
    rows: dict[str, list[str] | str] = {}
    guides = {}
    for name in dict.fromkeys(result.job.variant for result in found):
        every = [result for result in found if result.job.variant == name]
        runs = [result for result in every if result.measured]
        if not runs:
            rows[name] = notes_of(every)
            continue
        mean = {measure: _mean(runs, measure) for measure in (*runs[0].error, "seconds")}
        parameters = runs[0].measured["parameters"]
        shown = [
            mean[m]
            for m in (
                "seconds",
                "kl_guide_posterior",
                "kl_posterior_guide",
                "reward",
                "kl_guide_prior",
                "entropy",
            )
        ]
        rows[name + notes_of(every)] = [f"{parameters:,}", *(cell(*estimate) for estimate in shown)]
        guides[name] = Tuned(
            runs[0].way,
            mean["kl_guide_prior"].value,
            mean["reward"].value,
            mean["kl_guide_posterior"],
            mean["kl_posterior_guide"],
            parameters,
            mean["seconds"].value,
        )
    print(
        text_table(
            [
                "trained",
                "CPU s a step",
                KL["reverse"],
                KL["forward"],
                "E[r]",
                "KL(q || p0)",
                "entropy",
            ],
            rows,
        )
    )
    world = film_reviews()
    assert world.prior_sample is not None
    return {
        "frontier": guide_figures.frontier_figure(guides, world.prior_sample, world.model.beta),
        "costs": guide_figures.cost_figure(guides),
    }


def notes_of(runs: Sequence[Result]) -> str:
    """A remark on some runs of one guide, for after its name; empty if there is none."""
    return "".join(f", seed {result.job.seed} {result.note}" for result in runs if result.note)


def _mean(runs: Sequence[Result], name: str) -> Estimate:
    """Over seeds; of one, with the standard error of the measurement."""
    mean, error = mean_and_error([result.measured for result in runs], name)
    return Estimate(mean, runs[0].error.get(name, math.nan) if len(runs) == 1 else error)


REPORTS: dict[WorldName, Callable[[Sequence[Result]], dict[str, Figure]]] = {
    "eight-tokens": gaps,
    "two-modes": modes,
    "film-reviews": costs,
}
"""By world, what prints its table and draws its figures."""

if __name__ == "__main__":
    run_script(main, GuideZoo)

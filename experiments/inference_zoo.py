"""Every objective and every sampler on the same posterior, at the same budget of sampled responses.

Question: the posterior of RL with a KL penalty is one object; how close does each way of inference come to it, at what cost?
Claim (Korbak, Perez and Buckley 2022): RL is one inference algorithm among many for it.
Printed: for each world and algorithm KL both ways, the error of log Z, reward, entropy, distinct-2 and CPU seconds, means over
seeds with standard errors. Written: `results.jsonl`, a line for each run as it ends, and a figure of error against budget for
each world.

What is measured of a sampler is not what is measured of a guide. Where responses can be listed, a guide's KL is exact; a
sampler's is that of its weighted draws, taken as a distribution, and includes their being finite: M exact draws from a
posterior over S responses have about S/2M. Elsewhere a guide's is estimated (`inference.diagnose`), and a sampler's is
log Z - log Z_hat, whose mean bounds that of one of its draws.

With its defaults it takes the better part of an hour on two cores; `--seeds 1 --fractions 1` is a fifth of that.

    python -m experiments.inference_zoo
    python -m experiments.inference_zoo --worlds eight-tokens --only leave-one-out trajectory-balance --seeds 5
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import torch

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
    number,
)
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.refusals import one_line
from experiments.shared.run_folder import new_folder
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.training import early_stops, record_early_stop
from experiments.shared.workers import run_and_write, some_jobs
from experiments.shared.worlds import WORLDS, World, WorldName, guide_for, reference
from guides import GUIDES, Guide, Twisted
from inference import (
    OBJECTIVES,
    SAMPLERS,
    FusedOptimizer,
    Posterior,
    cosine,
    diagnose,
    entropy,
    fit,
    importance_sampling,
    log_likelihood_at,
    random_state,
    response_distribution,
)
from inference.diagnostics.diagnose import distinct_n
from inference.objectives import Proximal_ELBO

TUNED = (
    "importance",
    "quasi-rejection",
    "metropolis-hastings",
    "independence-metropolis-hastings",
    "smc",
    "annealed-smc",
)
"""Samplers that are also run with a tuned guide as their proposal."""
FROM_GUIDE = " from a guide"


@dataclass(frozen=True)
class Zoo(Arguments):
    """Compare every way to reach the posterior."""

    worlds: Annotated[tuple[WorldName, ...], DISTINCT] = tuple(WORLDS)
    """`eight-tokens` has 400 responses, all listed; `film-reviews` is the embedded prior with a bounded reward."""
    steps: tuple[Count, ...] = (300, 30)
    """Steps of SVI at the full budget, for each world; a step draws 64 responses, and samplers draw as many in all."""
    fractions: Annotated[tuple[Annotated[float, number(above=0, at_most=1)], ...], DISTINCT] = (
        1 / 16,
        1 / 4,
        1.0,
    )
    """Of the full budget, for the figure; the table is of the largest."""
    only: Only = ()
    """Algorithms by name; default all."""
    seeds: Seeds = 3
    """Independent runs of each."""
    workers: Workers = CORES
    """Processes, each with one thread."""
    out: Out = Path("runs")
    """The run folder is made in here."""


@dataclass(frozen=True)
class Job:
    """One run: an algorithm on a world with a budget."""

    world: str
    algorithm: str
    fraction: float
    steps: int
    seed: int


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        job: what was run.
        budget: responses drawn.
        measured: `kl_guide_posterior` and `kl_posterior_guide`, nats; `log_z_error`, |log Z_hat - log Z|, nats; `reward`, E[r];
            `entropy`, nats; `distinct_2`, different pairs of neighbouring tokens, as a share of all, among 512 draws; `seconds`
            of CPU. What is not defined or not known is not there.
        note: why there is no result.
        stopped: why a fit ended early.
    """

    job: Job
    budget: int
    measured: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    stopped: str = ""


COLUMNS = {
    "KL(q || p*)": "kl_guide_posterior",
    "KL(p* || q)": "kl_posterior_guide",
    "log Z error": "log_z_error",
    "E[r]": "reward",
    "entropy": "entropy",
    "distinct-2": "distinct_2",
    "CPU s": "seconds",
}


def main(args: Zoo) -> list[Result]:
    if len(args.steps) != len(args.worlds):
        raise SystemExit(
            f"--steps has {len(args.steps)} numbers for {len(args.worlds)} worlds, expected one for each"
        )
    jobs = list_jobs(args)
    with new_folder(args, "zoo") as folder:
        results = run_and_write(run, jobs, args.workers, folder.path / "results.jsonl")
        for name in args.worlds:
            of_world = [result for result in results if result.job.world == name]
            print(f"\n{name}: {reference(WORLDS[name]())}\n{table(of_world, max(args.fractions))}")
            figure = figures.error_budget_figure(curves(of_world), name)
            print(figures.save(figure, folder.path / f"{name}.svg"))
        return results


def list_jobs(args: Zoo) -> list[Job]:
    """Every run, the long ones last in their world."""
    names = [*OBJECTIVES, *SAMPLERS, *(name + FROM_GUIDE for name in TUNED)]
    check_only(args.only, names)
    wanted = [name for name in names if not args.only or name in args.only]
    jobs = [
        Job(world, name, fraction, max(1, round(steps * fraction)), seed)
        for world, steps in zip(args.worlds, args.steps, strict=True)
        for fraction in args.fractions
        for name in wanted
        for seed in range(args.seeds)
        if not (name == "enumeration" and WORLDS[world]().num_prior_draws)
    ]
    return some_jobs(jobs)


def run(job: Job) -> Result:
    """One run of one algorithm; an algorithm that refuses says why in the note."""
    world = WORLDS[job.world]()
    world.truth, world.prior_sample  # noqa: B018 - made before the clock starts
    budget = job.steps * world.particles
    began = time.process_time()
    try:
        with random_state.isolated(job.seed), early_stops() as stops:
            if job.algorithm in OBJECTIVES:
                guide = train(world, job.algorithm, job.steps, job.seed)
                finished = partial(measure_guide, world, guide)
            else:
                posterior = sample(world, job, budget)
                finished = partial(measure_posterior, world, posterior)
            seconds = time.process_time() - began
            return Result(job, budget, finished() | {"seconds": seconds}, stopped="; ".join(stops))
    except (ValueError, ArithmeticError) as error:
        return Result(job, budget, note=one_line(error))


def train(world: World, objective: str, steps: int, seed: int) -> Guide:
    """A fit as any user would run it, on a budget of `steps` batches."""
    guide, made = (
        guide_for(objective, world.model.prior),
        OBJECTIVES[objective](num_particles=world.particles),
    )
    num_steps = (
        steps * made.epochs if isinstance(made, Proximal_ELBO) else steps
    )  # it takes several on each batch
    rate = GUIDES["twisted"].learning_rate if isinstance(guide, Twisted) else world.learning_rate
    options = {"lr": rate}
    optimizer = FusedOptimizer(
        options=options, clip_norm=world.clip_norm, schedule=cosine(num_steps)
    )
    settings = {"num_steps": num_steps, "objective": made, "optimizer": optimizer, "seed": seed}
    record_early_stop(fit(world.model, guide, world.prompts, **settings, progress=False), "its fit")
    return guide


def sample(world: World, job: Job, budget: int) -> Posterior:
    """A sampler on its whole budget; or, from a guide, half of it spent on training one."""
    if not job.algorithm.endswith(FROM_GUIDE):
        return SAMPLERS[job.algorithm](world.model, world.prompts, num_samples=budget)
    guide = train(world, "trajectory-balance", max(1, job.steps // 2), job.seed)
    name = job.algorithm.removesuffix(FROM_GUIDE)
    return SAMPLERS[name](world.model, world.prompts, guide=guide, num_samples=budget // 2)


def measure_guide(world: World, guide: Guide) -> dict[str, float]:
    """A guide against the posterior: exactly where that can be enumerated, else by `diagnose`."""
    beta = world.model.beta
    if world.truth is None:
        found = diagnose(
            world.model, guide, world.prompts, num_samples=1024, prior_sample=world.prior_sample
        )
        forward = (
            {}
            if found.kl_posterior_guide is None
            else {"kl_posterior_guide": found.kl_posterior_guide.value}
        )
        return forward | {
            "kl_guide_posterior": found.kl_guide_posterior.value,
            "log_z_error": abs(found.log_z_bound.minus(found.log_z).value),
            "reward": found.log_likelihood.value * beta,
            "entropy": found.entropy.value,
            "distinct_2": distinct(
                world, response_distribution(guide, world.prompts).sample(torch.Size([512]))
            ),
        }
    weighted = importance_sampling(world.model, world.prompts, guide=guide, num_samples=1024)
    assert weighted.log_z is not None
    return {
        "kl_guide_posterior": world.truth.kl_guide_posterior(guide).mean().item(),
        "kl_posterior_guide": world.truth.kl_posterior_guide(guide).mean().item(),
        "log_z_error": (weighted.log_z - world.truth.log_z).abs().mean().item(),
        "reward": world.truth.expected_log_likelihood(guide).mean().item() * beta,
        "entropy": entropy(world.truth.log_guide(guide)).mean().item(),
        "distinct_2": distinct(world, weighted.response[:512]),
    }


def measure_posterior(world: World, posterior: Posterior) -> dict[str, float]:
    """A sampler's weighted draws against the posterior."""
    log_likelihood = log_likelihood_at(world.model, world.prompts, posterior.response)
    measured = {
        "reward": posterior.mean(log_likelihood).mean().item() * world.model.beta,
        "distinct_2": distinct(world, posterior.resample(512)),
    }
    if world.truth is None:
        assert world.prior_sample is not None
        if posterior.log_z is not None:
            gap = world.prior_sample.log_z().value - posterior.log_z.mean().item()
            accepted_or_not = bool(
                ((posterior.log_weight == 0) | posterior.log_weight.isneginf()).all()
            )
            # of accepted draws the weights of all draws tell nothing but log Z
            measured |= {"log_z_error": abs(gap)} | (
                {} if accepted_or_not else {"kl_guide_posterior": gap}
            )
        return measured
    if posterior.log_z is not None:
        measured["log_z_error"] = (posterior.log_z - world.truth.log_z).abs().mean().item()
    q, p = empirical(world, posterior), world.truth.log_posterior[:, 0].exp()
    missing = bool(((q == 0) & (p > 0)).any())
    return measured | {
        "kl_guide_posterior": (torch.xlogy(q, q) - torch.xlogy(q, p)).sum().item(),
        "kl_posterior_guide": math.inf
        if missing
        else (torch.xlogy(p, p) - torch.xlogy(p, q)).sum().item(),
        "entropy": entropy(q.log()[:, None]).item(),
    }


def empirical(world: World, posterior: Posterior) -> torch.Tensor:
    """The probability that the weighted draws give to each response of the support, `[S]`, for the one prompt."""
    assert world.truth is not None
    support, place = (
        world.truth.support[:, 0],
        world.model.prior.vocab_size ** torch.arange(world.truth.support.shape[-1]),
    )
    ids, order = (support * place).sum(-1).sort()
    found = order[torch.searchsorted(ids, (posterior.response[:, 0] * place).sum(-1))]
    weight = posterior.probability[:, 0].double()
    return torch.zeros(len(support), dtype=torch.float64).scatter_add_(0, found, weight)


def distinct(world: World, response: torch.Tensor) -> float:
    return distinct_n(response, world.model.prior.space.is_token(response), 2)


def table(results: Iterable[Result], fraction: float) -> str:
    """One row for each algorithm, the closest first: means over seeds and their standard errors."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        if result.job.fraction == fraction:
            runs.setdefault(result.job.algorithm, []).append(result)
    of = {name: [result.measured for result in found] for name, found in runs.items()}
    order = sorted(
        of,
        key=lambda name: (math.isnan(kl := mean_and_error(of[name], "kl_guide_posterior")[0]), kl),
    )
    rows: dict[str, list[str] | str] = {}
    for name in order:
        note = next((result.note for result in runs[name] if result.note), "")
        cells = [cell(*mean_and_error(of[name], measure)) for measure in COLUMNS.values()]
        stopped = next((f", {result.stopped}" for result in runs[name] if result.stopped), "")
        rows[name + stopped] = f"refused: {note}" if note else cells
    return text_table(list(COLUMNS), rows)


def curves(results: Iterable[Result]) -> dict[str, tuple[list[int], list[float], list[float]]]:
    """For each algorithm: budgets, KL(q || p*) and its standard error, where that is known."""
    grouped: dict[str, dict[int, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.job.algorithm, {}).setdefault(result.budget, []).append(result)
    found = {}
    for name, by_budget in grouped.items():
        measured = {
            budget: [result.measured for result in by_budget[budget]]
            for budget in sorted(by_budget)
        }
        points = [
            (budget, *mean_and_error(runs, "kl_guide_posterior"))
            for budget, runs in measured.items()
        ]
        points = [point for point in points if math.isfinite(point[1]) and point[1] > 0]
        if points:
            budgets, means, errors = zip(*points, strict=True)
            found[name] = (
                list(budgets),
                list(means),
                [0.0 if math.isnan(error) else error for error in errors],
            )
    return found


if __name__ == "__main__":
    run_script(main, Zoo)

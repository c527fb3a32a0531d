"""DPO beside variational inference: the same target for a rich guide, and not for a poor one.

Claim: on preferences without end, the minimum of DPO over all distributions is the posterior of the
judge's reward. Over a small family it is not the member nearest to the posterior, which variational
inference finds: a gap that no data closes.
Source: Rafailov et al. 2023, arXiv 2305.18290; the gap: arXiv 2505.19770, 2510.20413; EXO: arXiv
2402.00856; IPO: arXiv 2310.12036; KTO: arXiv 2402.01306.
Printed: KL(q || p*) and E[r] of the optimum of each loss in each family, exact; and, from few
preferences, the KL(q || p*) of DPO beside that of a reward inferred first, with standard errors.

    python -m experiments.dpo
    python -m experiments.dpo --numbers 100 1000 10000 --seeds 10
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor

from experiments.dpo.optima import loss_of_elbo, minimise, risk
from experiments.dpo.worlds import SHARPNESS, World
from experiments.shared.argument_types import Count, Positive, Seeds, Threads, count
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import cell, pair_table, summary
from experiments.shared.workers import set_threads
from guides import Guide, MeanField, NGram, Tabular
from inference import Estimate
from inference.direct_preferences import LIKELIHOODS, PreferenceProgram, fit_preferences, kto
from inference.direct_preferences.likelihoods import Likelihood
from inference.estimate import expectation
from inference.reward_posterior import REWARD_INFERENCE
from model.preferences import BradleyTerry, LinearHead

RATE = 0.05
"""Adam's peak learning rate, on few preferences."""
RICH, ZERO, GAP = "tabular", 1e-3, 0.01
"""The family of all distributions; largest KL of an equal optimum and smallest gap, nats."""
INFERENCE, KL = "variational inference", "KL(q || p*)"
Measures = dict[str, dict[str, float]]
"""Numbers by loss and name."""
LOSSES: dict[str, Likelihood] = {
    **{name: LIKELIHOODS[name] for name in ("dpo", "exo", "ipo")},
    "kto": kto(reference=0.0),
}
"""Losses by name. Draws of the prior put the reference point of KTO at 0."""
WEIGHT_SCALE = 5.0
"""Prior standard deviation of each response's reward, in nats of the judge."""
FAMILIES: dict[str, Callable[[World], Guide]] = {
    RICH: lambda world: Tabular(world.model.prior, world.truth.prompts),
    "mean-field": lambda world: MeanField(world.model.prior, world.truth.prompts),
    "1-gram": lambda world: NGram(world.model.prior, n=1),
}
"""Families of guides, the first with all distributions."""


@dataclass(frozen=True)
class DPO(Arguments):
    """Measure the optimum of DPO and its relatives, exactly and from few preferences."""

    beta: Positive = 0.1
    """Reward per nat, for rewards between 0 and 1. The judge has ten nats per unit of reward."""
    numbers: tuple[Annotated[int, count(2)], ...] = (100, 1000)
    """Numbers of preferences between draws of the prior."""
    steps: Count = 300
    """Largest number of steps to each optimum."""
    seeds: Seeds = 3
    """Number of data sets of each number of preferences."""
    threads: Threads | None = 1
    """Number of CPU threads; None for torch's choice."""


def main(args: DPO) -> list[Finding]:
    set_threads(args.threads)
    world = World.of(args.beta)
    optima = {name: optimum(make, world, args.steps) for name, make in FAMILIES.items()}
    tables = []
    for family, rows in optima.items():
        cells = {
            name: [(column, cell(value)) for column, value in row.items()]
            for name, row in rows.items()
        }
        tables.append(pair_table(f"{family}, preferences without end", cells))
    tables.append(pair_table("From few preferences, KL(q || p*)", few(world, args)))
    return conclude(__doc__, tables, judged(optima))


def optimum(make: Callable[[World], Guide], world: World, steps: int) -> Measures:
    """Measures of the optimum of each loss in a family."""
    pairs = world.population().scored(world.model.prior)
    measures = {}
    guide = make(world)
    minimise(guide, partial(loss_of_elbo, guide, world), steps)
    measures[INFERENCE] = measured(guide, world)
    for name, loss in LOSSES.items():
        guide = make(world)
        program = PreferenceProgram(guide, world.model.prior, world.beta, likelihood=loss)
        minimise(guide, partial(risk, program, pairs), steps)
        measures[name] = measured(guide, world)
    return measures


def measured(guide: Guide, world: World) -> dict[str, float]:
    """KL(q || p*), nats, and E[r] of a guide, exact."""
    log_guide = world.truth.log_guide(guide)[:, 0]
    reward = expectation(log_guide.exp(), world.reward).item() / SHARPNESS
    return {KL: world.truth.kl_guide_posterior(guide).item(), "E[r]": reward}


def few(world: World, args: DPO) -> dict[str, list[tuple[str, Estimate]]]:
    """KL(q || p*) of the rich guide from few preferences, directly and by a reward first."""
    rows: dict[str, list[tuple[str, Estimate]]] = {}
    for number in args.numbers:
        runs = [once(world, number, seed, args.steps) for seed in range(args.seeds)]
        rows[f"{number} preferences"] = list(summary(runs).items())
    return rows


def once(world: World, number: int, seed: int, steps: int) -> dict[str, float]:
    """KL(q || p*) of DPO, and of the posterior of a reward that is inferred first."""
    pairs, comparisons = world.preferences(number, seed)
    guide = FAMILIES[RICH](world)
    program = PreferenceProgram(guide, world.model.prior, world.beta)
    fit_preferences(program, pairs, num_steps=steps, learning_rate=RATE, progress=False)
    model = BradleyTerry(LinearHead(len(world.reward)), prior_scale=WEIGHT_SCALE)
    (reward,) = REWARD_INFERENCE["map"](model, comparisons)
    log_q = (world.truth.log_prior[:, 0] + reward / world.beta).log_softmax(0)
    return {"dpo": world.truth.kl_guide_posterior(guide).item(), "reward first": kl(log_q, world)}


def kl(log_guide: Tensor, world: World) -> float:
    """KL from a distribution over all responses, `[S]`, to the posterior, nats."""
    return expectation(log_guide.exp(), log_guide - world.truth.log_posterior[:, 0]).item()


def judged(optima: dict[str, Measures]) -> list[Finding]:
    """Findings about the optima."""
    findings = []
    for family, rows in optima.items():
        gap = {name: row[KL] for name, row in rows.items()}
        if family == RICH:
            values = [gap[INFERENCE], gap["dpo"]]
            findings.append(Finding.of_limits(f"{family}, KL of the optima", values, below=ZERO))
            others = [gap["ipo"], gap["kto"]]
            findings.append(Finding.of_limits(f"{family}, KL of IPO and KTO", others, above=GAP))
        else:
            more = gap["dpo"] - gap[INFERENCE]
            subject = f"{family}, KL of DPO above the smallest of the family"
            findings.append(Finding.of_limits(subject, [more], above=GAP))
    return findings


if __name__ == "__main__":
    run_script(main, DPO)

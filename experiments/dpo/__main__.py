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
    python -m experiments.dpo --preferences pairs.jsonl --beta 0.4 --guide lora

With `--preferences` the data are yours, from any source that `read_judged`
reads. DPO has the likelihood of Plackett and Luce for rankings. DPO and a reward that is inferred
first and followed by SVI have the same number of steps, and beside pairs the same number of
responses; a step of SVI has two responses for each ranking too. There is no known truth: printed
are accuracy and log loss of the implied rewards on held-out preferences, and the distance of both
guides from the prior and from the posterior of the inferred reward.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from experiments.dpo.few import few
from experiments.dpo.from_file import Study, compare
from experiments.dpo.options import DPO
from experiments.dpo.worlds import FAMILIES, RICH, SHARPNESS, World
from experiments.shared.claims import Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.tables import table_of
from guides import GUIDES, Guide
from inference import log_guide_at, random_state
from inference.direct_preferences import LIKELIHOODS, PreferenceProgram, ResponsePairs, kto
from inference.direct_preferences.likelihoods import Likelihood
from inference.estimate import expectation
from model.common.minimise import minimise

ZERO, GAP = 1e-3, 0.01
"""Largest KL of an equal optimum and smallest gap, nats."""
INFERENCE, KL = "variational inference", "KL(q || p*)"
Measures = dict[str, dict[str, float]]
"""Numbers by loss and name."""
LOSSES: dict[str, Likelihood] = {
    **{name: LIKELIHOODS[name] for name in ("dpo", "exo", "ipo")},
    "kto": kto(reference=0.0),
}
"""Losses by name. Draws of the prior put the reference point of KTO at 0."""


def main(args: DPO) -> list[Finding]:
    if args.preferences is not None:
        return from_file(args.preferences, args)
    world = World.of(args.beta)
    optima = {name: optimum(make, world, args.steps) for name, make in FAMILIES.items()}
    tables = [table_of(f"{name}, preferences without end", rows) for name, rows in optima.items()]
    runs = few(world, args.numbers, args.seeds, args.steps, args.pairs)
    tables.append(table_of("From few preferences, KL(q || p*)", runs))
    return conclude(__doc__, tables, judged(optima))


def from_file(path: str, args: DPO) -> list[Finding]:
    """Print the table of a file; there is no claim to judge."""
    if not GUIDES[args.guide].trains:
        raise SystemExit(f"--guide {args.guide} has nothing to train")
    with random_state.isolated(0):
        source = path, args.prompt_column
        study = Study.of(*source, args.prior, args.max_new_tokens, args.held_out, args.beta)
        sizes = {"steps": args.steps, "pairs": args.pairs, "samples": args.samples}
        rows = compare(study, args.guide, rate=args.learning_rate, **sizes)
    kinds = ("rankings", "pairs held") if study.has_rankings else ("preferences", "held")
    counts = f"{len(study.train)} {kinds[0]}, {len(study.held_out)} {kinds[1]} out"
    print(table_of(f"{path}: {counts}, beta {args.beta:g}", rows))
    return []


def optimum(make: Callable[[World], Guide], world: World, steps: int) -> Measures:
    """Measures of the optimum of each loss in a family."""
    pairs = world.population().scored(world.model.prior)
    measures = {}
    guide = make(world)
    minimise(partial(loss_of_elbo, guide, world), guide.parameters(), max_steps=steps)
    measures[INFERENCE] = measured(guide, world)
    for name, loss in LOSSES.items():
        guide = make(world)
        program = PreferenceProgram(guide, world.model.prior, world.beta, likelihood=loss)
        minimise(partial(risk, program, pairs), guide.parameters(), max_steps=steps)
        measures[name] = measured(guide, world)
    return measures


def loss_of_elbo(guide: Guide, world: World) -> Tensor:
    """Minus the exact ELBO, nats, with gradient."""
    truth = world.truth
    log_guide = log_guide_at(guide, truth.prompts, truth.support)
    return -(log_guide.exp() * (truth.log_joint - log_guide)).sum()


def risk(program: PreferenceProgram, pairs: ResponsePairs) -> Tensor:
    """Mean loss over preferences without end, with gradient."""
    assert pairs.weight is not None
    return -(pairs.weight * program.log_likelihood(pairs)).sum()


def measured(guide: Guide, world: World) -> dict[str, float]:
    """KL(q || p*), nats, and E[r] of a guide, exact."""
    log_guide = world.truth.log_guide(guide)[:, 0]
    reward = expectation(log_guide.exp(), world.reward).item() / SHARPNESS
    return {KL: world.truth.kl_guide_posterior(guide).item(), "E[r]": reward}


def judged(optima: dict[str, Measures]) -> list[Finding]:
    """Findings about the optima."""
    findings = []
    for family, rows in optima.items():
        gap = {name: row[KL] for name, row in rows.items()}
        if family == RICH:
            values = [gap[INFERENCE], gap["dpo"]]
            findings.append(within(f"{family}, KL of the optima", *values, below=ZERO))
            others = [gap["ipo"], gap["kto"]]
            findings.append(within(f"{family}, KL of IPO and KTO", *others, above=GAP))
        else:
            more = gap["dpo"] - gap[INFERENCE]
            subject = f"{family}, KL of DPO above the smallest of the family"
            findings.append(within(subject, more, above=GAP))
    return findings


if __name__ == "__main__":
    run_script(main, DPO)

"""Distillation of best of n: a guide learns the best of n, so that one draw does for n.

Claim: a guide can learn the distribution of the best of n. No guide has more reward than the
posterior at the same KL to the prior.
Source: Amini et al. 2024, arXiv 2407.06057; Gui et al. 2024, arXiv 2406.00832.
Printed: for guides by SVI and by distillation, KL to the prior, reward, the reward of the posterior
at the same KL, and KL to the guide's target, with standard errors over seeds. Written: the guides
on the plane of reward against KL.

All responses are listed, so that both targets are exact: the posterior of SVI, and the best of n by
order statistics. `best_of_n` is about the targets, `distillation_text` about the embedded prior.

    python -m experiments.distillation
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.argument_types import DISTINCT, Count, Out, Positive, Seeds, Threads, count
from experiments.shared.claims import Finding, conclude, largest
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import plane_figure, save_all
from experiments.shared.tables import cell, cells, mean_and_error, text_table
from experiments.shared.training import early_stops, train
from experiments.shared.workers import set_threads
from guides import FineTuned
from inference import BestOfN_ELBO, Enumeration, Estimate, LeaveOneOut_ELBO, PriorSample
from inference.order_statistics import best_of_n_log_ratio, level_cdf
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

COLUMNS = ["KL(q||p0)", "E[r]", "posterior's E[r]", "KL(q||target)"]
EXACT = 1e-10
LEARNED = 0.2
"""Share of KL(p0 || best of n). A guide with less KL to the best of n has learned it."""
Sizes = Annotated[tuple[Annotated[int, count(2, 100_000)], ...], DISTINCT]


@dataclass(frozen=True)
class Distillation(Arguments):
    """Train guides towards the best of n and towards posteriors, where all responses are listed."""

    sizes: Sizes = (4, 16)
    """Group sizes n of the distilled guides."""
    betas: Annotated[tuple[Positive, ...], DISTINCT] = (0.6, 0.3)
    """Rewards per nat of the guides by SVI."""
    steps: Count = 120
    """Number of SVI steps."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in each step."""
    seeds: Seeds = 3
    """Number of guides of each kind."""
    threads: Threads | None = 1
    """Number of CPU threads; None for torch's choice."""
    out: Out = Path("runs")
    """Parent folder of the run folder."""


def main(args: Distillation) -> list[Finding]:
    set_threads(args.threads)
    prior = grammar_prior(max_new_tokens=3)
    reward = TextReward(vader_sentiment, prior)
    at_one = AlignmentModel(prior, reward, 1.0)  # the log likelihood is the reward
    prompts = prior.encode(["the film was"])
    truth = Enumeration(at_one, prompts)
    kinds: dict[str, tuple[AlignmentModel, Callable[[int], ELBO], float, Tensor]] = {}
    for beta in args.betas:
        model = AlignmentModel(prior, reward, beta)
        log_target = (truth.log_prior + truth.log_likelihood / beta).log_softmax(0)
        kinds[f"SVI, beta {beta:g}"] = model, LeaveOneOut_ELBO, 2e-3, log_target
    targets = {}
    for n in args.sizes:
        log_target = truth.log_prior + log_ratio(truth, n)
        targets[n] = measure(truth, log_target, log_target)
        kinds[f"distilled, n = {n}"] = at_one, partial(BestOfN_ELBO, n=n), 3e-3, log_target
    metrics: dict[str, list[dict[str, float]]] = {}
    with early_stops() as stops:
        for name, (model, objective, rate, log_target) in kinds.items():
            metrics[name] = []
            for seed in range(args.seeds):
                guide, loss = FineTuned(prior), objective(args.particles)
                train(guide, model, prompts, loss, args.steps, learning_rate=rate, seed=seed)
                metrics[name].append(measure(truth, truth.log_guide(guide), log_target))
    rows = {name: cells(runs) for name, runs in metrics.items()}
    title = f"Guides on the grammar after {args.steps} steps, {args.seeds} seeds"
    shown = {**metrics, **{f"target, n = {n}": [targets[n]] for n in args.sizes}}
    places = {}
    for name, runs in shown.items():
        kl, mean_reward = (Estimate(*mean_and_error(runs, column)) for column in COLUMNS[:2])
        places[name] = kl, mean_reward
    figure, _ = plane_figure(PriorSample.of_enumeration(truth), places, "The grammar, exact")
    save_all(args, "distillation", {"grammar": figure})
    findings = findings_of(truth, metrics, args.sizes)
    return conclude(__doc__, [f"{title}\n{text_table(COLUMNS, rows)}"], findings, stops)


def log_ratio(truth: Enumeration, n: int) -> Tensor:
    """log pi_n(x)/p0(x) of every response, `[S, 1]`, for the best of n, pi_n."""
    return best_of_n_log_ratio(*level_cdf(truth.log_likelihood, truth.log_prior.softmax(0)), n)


def measure(truth: Enumeration, log_guide: Tensor, log_target: Tensor) -> dict[str, float]:
    """Place of a guide, `[S, 1]`, the posterior's reward there, and KL(q || target)."""
    prob = log_guide.exp()
    kl = (prob * (log_guide - truth.log_prior)).sum().item()
    reward = (prob * truth.log_likelihood).sum().item()
    frontier = PriorSample.of_enumeration(truth).frontier_at(kl)
    gap = (prob * (log_guide - log_target)).sum().item()
    return dict(zip(COLUMNS, (kl, reward, frontier, gap), strict=True))


def findings_of(
    truth: Enumeration, metrics: Mapping[str, Sequence[Mapping[str, float]]], sizes: Sequence[int]
) -> list[Finding]:
    """Findings on the frontier, and on the distance of each distilled guide from the best of n."""
    over = [run["E[r]"] - run["posterior's E[r]"] for runs in metrics.values() for run in runs]
    text = f"no guide is above the posteriors, the highest by {largest(over):.1g}"
    findings = [Finding(text, largest(over) <= EXACT)]
    for n in sizes:
        gap, error = mean_and_error(metrics[f"distilled, n = {n}"], "KL(q||target)")
        start = -(truth.log_prior.exp() * log_ratio(truth, n)).sum().item()
        text = f"distillation leaves {cell(gap / start, error / start)} of KL(p0 || best of {n})"
        findings.append(Finding(f"{text} (below {LEARNED:g})", gap < LEARNED * start))
    return findings


if __name__ == "__main__":
    run_script(main, Distillation)

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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.argument_types import DISTINCT, Count, Positive, Seeds, count
from experiments.shared.claims import FigureArguments, Finding, conclude, largest
from experiments.shared.command_line import run_script
from experiments.shared.figures import legend_below, plane_figure, save_all
from experiments.shared.tables import cell, pair_table, summary
from experiments.shared.training import train
from guides import FineTuned
from inference import BestOfN_ELBO, Enumeration, Estimate, LeaveOneOut_ELBO, PriorSample
from inference.enumeration import kl
from inference.order_statistics import best_of_n_log_ratio, level_cdf
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

EXACT = 1e-10
LEARNED = 0.2
"""Share of KL(p0 || best of n). A guide with less KL to the best of n has learned it."""


@dataclass(frozen=True)
class Distillation(FigureArguments):
    """Train guides towards the best of n and towards posteriors, where all responses are listed."""

    sizes: Annotated[tuple[Annotated[int, count(2, 100_000)], ...], DISTINCT] = (4, 16)
    """Group sizes n of the distilled guides."""
    betas: Annotated[tuple[Positive, ...], DISTINCT] = (0.6, 0.3)
    """Rewards per nat of the guides by SVI."""
    steps: Count = 120
    """Number of SVI steps."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in each step."""
    seeds: Seeds = 3
    """Number of guides of each kind."""


def main(args: Distillation) -> list[Finding]:
    prior = grammar_prior(max_new_tokens=3)
    reward = TextReward(vader_sentiment, prior)
    at_one = AlignmentModel(prior, reward, 1.0)  # the log likelihood is the reward
    prompts = prior.encode(["the film was"])
    truth = Enumeration(at_one, prompts)
    kinds: dict[str, tuple[AlignmentModel, Callable[[int], ELBO], Tensor]] = {}
    for beta in args.betas:
        model = AlignmentModel(prior, reward, beta)
        log_target = (truth.log_prior + truth.log_likelihood / beta).log_softmax(0)
        kinds[f"SVI, beta {beta:g}"] = model, LeaveOneOut_ELBO, log_target
    targets, starts = {}, {}
    for n in args.sizes:
        log_target = truth.log_prior + log_ratio(truth, n)
        targets[f"target, n = {n}"] = summary([measure(truth, log_target, log_target)])
        starts[n] = -(truth.log_prior.exp() * log_ratio(truth, n)).sum().item()
        kinds[f"distilled, n = {n}"] = at_one, partial(BestOfN_ELBO, n=n), log_target
    metrics, over = {}, []
    for name, (model, objective, log_target) in kinds.items():
        runs = []
        for seed in range(args.seeds):
            guide, loss = FineTuned(prior), objective(args.particles)
            train(guide, model, prompts, loss, args.steps, seed=seed)
            runs.append(measure(truth, truth.log_guide(guide), log_target))
        metrics[name] = summary(runs)
        over += [run["E[r]"] - run["posterior's E[r]"] for run in runs]
    title = f"Guides on the grammar after {args.steps} steps, {args.seeds} seeds"
    table = pair_table(title, {name: row.items() for name, row in metrics.items()})
    places = {name: (row["KL(q||p0)"], row["E[r]"]) for name, row in (metrics | targets).items()}
    heading = "Guides end below the posteriors, which none exceeds"
    heading += f"\n(the grammar; {args.seeds} seeds ± 2 s.e.)"
    figure, axes = plane_figure(PriorSample.of_enumeration(truth), places, heading)
    legend_below(figure, axes)
    save_all(args, "distillation", {"grammar": figure})
    return conclude(__doc__, [table], findings_of(metrics, largest(over), starts))


def log_ratio(truth: Enumeration, n: int) -> Tensor:
    """log pi_n(x)/p0(x) of every response, `[S, 1]`, for the best of n, pi_n."""
    return best_of_n_log_ratio(*level_cdf(truth.log_likelihood, truth.log_prior.softmax(0)), n)


def measure(truth: Enumeration, log_guide: Tensor, log_target: Tensor) -> dict[str, float]:
    """Place of a guide, `[S, 1]`, the posterior's reward there, and KL(q || target)."""
    nats = kl(log_guide, truth.log_prior).item()
    return {
        "KL(q||p0)": nats,
        "E[r]": (log_guide.exp() * truth.log_likelihood).sum().item(),
        "posterior's E[r]": PriorSample.of_enumeration(truth).frontier_at(nats),
        "KL(q||target)": kl(log_guide, log_target).item(),
    }


def findings_of(
    metrics: Mapping[str, Mapping[str, Estimate]], over: float, starts: Mapping[int, float]
) -> list[Finding]:
    """Findings on the frontier, and on the distance of each distilled guide from the best of n.

    `over` is the largest reward of a guide above the posterior's, `starts` KL(p0 || best of n) by n
    in nats.
    """
    text = f"no guide is above the posteriors, the highest by {over:.1g}"
    findings = [Finding(text, over <= EXACT)]
    for n, start in starts.items():
        gap, error = metrics[f"distilled, n = {n}"]["KL(q||target)"]
        text = f"distillation leaves {cell(gap / start, error / start)} of KL(p0 || best of {n})"
        findings.append(Finding(f"{text} (below {LEARNED:g})", gap < LEARNED * start))
    return findings


if __name__ == "__main__":
    run_script(main, Distillation)

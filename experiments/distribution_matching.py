"""What makes RL from a reward work is not RL but the distribution that it matches.

Question: a language model is to meet a constraint and remain a language model; what brings that about?
Claim: a double dissociation. RL without distribution matching fails: reward alone meets the constraint, or overshoots it, and
the language is lost. Distribution matching without RL works: GDC (Khalifa et al. 2021; its gradient with the baseline of
Korbak et al. 2022b) descends KL(p* || q), whose expectation is under p* and so is that of no reward. RL with a KL penalty
works, for it is distribution matching: the other KL, to the same p* (Korbak, Perez and Buckley 2022, section 5).

Two constraints on the embedded prior, and a guide that reweights its tokens by a small head (`Twisted`), which of all guides
comes furthest in few steps there. Pointwise: every response has a certain word, p* = p0 b / Z with b of 1 or 0.
Distributional: half of all responses are positive, p* = p0 exp(lambda phi) / Z with lambda by `match_moments`; for one
feature that is true of a share m of the prior's responses, lambda = log((1 - m)/m). RL is rewarded with 1 for the word, for
being positive. Its KL penalty wants a beta: a small one for the word, p* being the limit of its posteriors as beta goes to 0;
and 1/lambda for the other, at which its posterior is p*. With any other beta it matches another distribution.

Printed, as in those papers: how often the constraint is met, KL(p* || q), KL(q || p0), distinct-1 and -2, self-BLEU-5 and
entropy, with standard errors (of the estimate; over seeds, if there are several). Written: constraint and KL of every method.

    python -m experiments.distribution_matching
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pyro.infer import ELBO
from torch import Tensor

from experiments.shared import figures
from experiments.shared.argument_types import (
    Count,
    Name,
    Out,
    Positive,
    Rate,
    Seeds,
    Threads,
    count,
    number,
)
from experiments.shared.claims import Finding, finished, report
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.run_folder import new_folder
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.training import RewardOnly, early_stops, train
from experiments.shared.workers import set_threads
from guides import Guide, Twisted
from inference import (
    OBJECTIVES,
    Estimate,
    LeaveOneOut_ELBO,
    PriorSample,
    diagnose,
    match_moments,
    random_state,
    sample_prior,
)
from inference.diagnostics.diagnose import distinct_n
from inference.diagnostics.self_bleu import self_bleu
from inference.targets.moments import MomentMatch
from model import (
    AlignmentModel,
    Constraint,
    LanguageModel,
    Pattern,
    Prompts,
    Reward,
    TextReward,
    vader_sentiment,
)
from model.prior.named_priors import load_prior

CLAIM = "RL without distribution matching fails, distribution matching without RL works, and RL with a KL penalty is such matching"
SOURCE = "Korbak, Perez and Buckley 2022, arXiv 2205.11275, section 5; Khalifa et al. 2021, arXiv 2012.11635; arXiv 2206.00761"
GDC, PURE, PENALISED = "GDC, no RL", "RL, reward alone", "RL with the KL penalty"
PRIOR, TARGET = "prior", "p*"
PARTS = 4
"""Of a guide's responses, to have errors of what is not a mean over them."""
REACHED = 0.5
"""Of the way from the prior's share to what is asked for: a guide that has come further, by 3 standard errors, works."""
COLLAPSED = 0.5
"""Of the distinct-2 of p*: with less, the language is lost; with more, it is kept."""


@dataclass(frozen=True)
class DistributionMatching(Arguments):
    """See RL fail without distribution matching, and distribution matching work without RL."""

    word: Name = "very"
    """What the pointwise constraint asks of every response."""
    share: Annotated[float, number(above=0, below=1)] = 0.5
    """Of responses that the distributional constraint wants positive by VADER."""
    beta: Positive = 0.2
    """Reward per nat of RL with a KL penalty, where the reward is the word."""
    max_new_tokens: Annotated[int, count(1, 100, "the embedded prior reads 128 tokens")] = 6
    """T: the shorter the responses, the fewer steps the gradients need."""
    steps: Count = 80
    """Of SVI, for each method."""
    particles: Annotated[int, count(2)] = 64
    """Responses a step."""
    rate: Rate = 5e-3
    """Learning rate."""
    seeds: Seeds = 1
    """Guides of each method. With several, standard errors are over them."""
    draws: Annotated[int, count(8)] = 2048
    """Of the prior, behind lambda, KL(p* || q) and what is said of p*."""
    samples: Annotated[int, count(8)] = 512
    """Of each guide, in four parts; distinct-n and self-BLEU are those of a part."""
    threads: Threads | None = 1
    """CPU threads; None for torch's choice. More help small networks little, and do harm where cores are shared."""
    out: Out = Path("runs")
    """The run folder is made in here."""


@dataclass(frozen=True)
class Task:
    """A constraint.

    Attributes:
        name: of the constraint.
        feature: phi, 1 or 0.
        goal: E[phi] as it is wanted.
        target: the model whose posterior is p*.
        rewarded: the model for RL: its reward is phi, and its posterior p*, or close to it.
    """

    name: str
    feature: Reward
    goal: float
    target: AlignmentModel
    rewarded: AlignmentModel


COLUMNS = {
    "constraint": "met",
    "KL(p*||q)": "kl_posterior_guide",
    "KL(q||p0)": "kl_guide_prior",
    "distinct-1": "distinct_1",
    "distinct-2": "distinct_2",
    "self-BLEU-5": "self_bleu",
    "entropy": "entropy",
}
Row = Mapping[str, Estimate]


def main(args: DistributionMatching) -> list[Finding]:
    set_threads(args.threads)
    prior = load_prior(
        "film-reviews",
        max_new_tokens=args.max_new_tokens,
        temperature=0.7,
        dtype="float32",
        device="cpu",
    )
    prompts = prior.encode(["The film was"])
    with random_state.isolated(0), early_stops() as stops:
        moments = match_moments(
            AlignmentModel(prior, {}, 1.0),
            prompts,
            {"positive": positive(prior)},
            {"positive": args.share},
            num_draws=args.draws,
        )
        tasks = [pointwise(prior, args), distributional(prior, moments)]
        rows = {task.name: run(task, prompts, args) for task in tasks}
    findings = [lambda_finding(moments)]
    for task in tasks:
        findings += findings_of(task, rows[task.name])
    findings += finished(stops)
    tables = [f"{moments}"]
    for task in tasks:
        cells = {
            name: [cell(*row[key]) if key in row else "-" for key in COLUMNS.values()]
            for name, row in rows[task.name].items()
        }
        tables.append(
            f"{task.name}; {args.steps} steps of {args.particles}\n{text_table(list(COLUMNS), cells)}"
        )
    print(report(CLAIM, SOURCE, tables, findings))
    figure = dissociation_figure(rows, {task.name: task.goal for task in tasks})
    with new_folder(args, "distribution-matching") as folder:
        print(f"Figure: {figures.save(figure, folder.path / 'dissociation.svg')}")
    return findings


def is_positive(texts: Sequence[str]) -> list[float]:
    """1 for a text of positive sentiment by VADER, else 0."""
    return [float(score > 0) for score in vader_sentiment(texts)]


def positive(prior: LanguageModel) -> TextReward:
    return TextReward(is_positive, prior, upper_bound=1.0)


def pointwise(prior: LanguageModel, args: DistributionMatching) -> Task:
    """Every response has the word."""
    has_word = TextReward(Pattern.of_words([args.word]), prior, whole=False)
    target = AlignmentModel(prior, {}, 1.0, {"has the word": Constraint(has_word, at_least=1.0)})
    name = f'Every response says "{args.word}"'
    return Task(name, has_word, 1.0, target, AlignmentModel(prior, has_word, args.beta))


def distributional(prior: LanguageModel, moments: MomentMatch) -> Task:
    """A share of the responses is positive."""
    share, multiplier = moments.targets["positive"], moments.multipliers["positive"]
    if not (moments.attainable and multiplier > 0):
        base = moments.base_moments["positive"].value
        raise SystemExit(
            f"--share {share:g}: expected above {base:.3f}, that of the prior, and below 1"
        )
    feature, target = positive(prior), AlignmentModel(prior, {}, 1.0, {"moments": moments.factor})
    rewarded = AlignmentModel(prior, feature, 1 / multiplier)
    return Task(f"{share:.0%} of the responses are positive", feature, share, target, rewarded)


def run(task: Task, prompts: Prompts, args: DistributionMatching) -> dict[str, Row]:
    """All methods, and prior and target to compare with."""
    draws = sample_prior(
        task.target,
        prompts,
        args.draws,
        log_likelihood_bound=task.target.log_likelihood_bound(prompts),
    )
    assert draws.accepted is not None
    exact_draws = draws.response[draws.accepted[:, 0]]  # [A, N, T], draws from p*
    if len(exact_draws) < 2 * PARTS:
        few = f"{len(exact_draws)} of {args.draws} draws of the prior are draws of p*"
        raise SystemExit(
            f"{task.name}: {few}, expected {2 * PARTS} at least: raise --draws, or ask for less"
        )
    size = min(args.samples, len(exact_draws)) // PARTS
    rows: dict[str, Row] = {
        PRIOR: measure(task, Twisted(task.target.prior), prompts, draws, exact_draws, size),
        TARGET: measure_target(task, prompts, draws, exact_draws[: size * PARTS]),
    }
    for name in (GDC, PURE, PENALISED):
        model = task.target if name == GDC else task.rewarded
        found = []
        for seed in range(args.seeds):
            guide = train(
                Twisted(model.prior),
                model,
                prompts,
                objective(name, args.particles),
                args.steps,
                learning_rate=args.rate,
                seed=seed,
            )
            found.append(measure(task, guide, prompts, draws, exact_draws, size))
        rows[name] = found[0] if len(found) == 1 else over_seeds(found)
    return rows


def objective(name: str, num_particles: int) -> ELBO:
    """What each method descends."""
    if name == GDC:
        return OBJECTIVES["forward-kl"](num_particles=num_particles)
    return RewardOnly(num_particles) if name == PURE else LeaveOneOut_ELBO(num_particles)


def measure(
    task: Task, guide: Guide, prompts: Prompts, draws: PriorSample, exact_draws: Tensor, size: int
) -> dict[str, Estimate]:
    """A guide's row, from PARTS times `size` of its responses, and from the draws for what is under p*.

    `nearer` is KL(p* || p0) - KL(p* || q) = E_p*[log q/p0], in which log Z and the entropy of p* cancel.
    """
    found = diagnose(task.target, guide, prompts, num_samples=PARTS * size, prior_sample=draws)
    assert found.kl_posterior_guide is not None
    with torch.no_grad():
        distribution = guide.distribution(prompts)
        response = distribution.sample((PARTS * size,))
        log_ratio = (
            distribution.log_prob(exact_draws).double()
            - task.target.prior(prompts).log_prob(exact_draws).double()
        )
    return {
        "met": Estimate.of_mean(task.feature(prompts, response)),
        "kl_posterior_guide": found.kl_posterior_guide,
        "nearer": Estimate.of_mean(log_ratio),
        "kl_guide_prior": found.kl_guide_prior,
        "entropy": found.entropy,
        **diversity(task.target.prior, response),
    }


def measure_target(
    task: Task, prompts: Prompts, draws: PriorSample, exact_draws: Tensor
) -> dict[str, Estimate]:
    """The row of p*, from exact draws of it."""
    kl = draws.kl(draws.log_likelihood)
    with torch.no_grad():
        log_prior = task.target.prior(prompts).log_prob(exact_draws)
    return {
        "met": Estimate.of_mean(task.feature(prompts, exact_draws)),
        "kl_guide_prior": kl,
        "entropy": Estimate.of_mean(-log_prior).minus(kl),  # -log p* = -log p0 - log p*/p0
        **diversity(task.target.prior, exact_draws),
    }


def diversity(prior: LanguageModel, response: Tensor) -> dict[str, Estimate]:
    """distinct-1, distinct-2 and self-BLEU-5 of parts of some responses, their mean and its standard error."""
    parts = []
    for part in response.chunk(PARTS):
        is_token = prior.space.is_token(part)
        parts.append(
            {
                "distinct_1": distinct_n(part, is_token, 1),
                "distinct_2": distinct_n(part, is_token, 2),
                "self_bleu": self_bleu(part, is_token),
            }
        )
    return {name: Estimate(*mean_and_error(parts, name)) for name in parts[0]}


def over_seeds(found: Sequence[Row]) -> Row:
    """Means over guides, with the errors of those."""
    values = [{name: estimate.value for name, estimate in row.items()} for row in found]
    return {name: Estimate(*mean_and_error(values, name)) for name in values[0]}


def lambda_finding(moments: MomentMatch) -> Finding:
    """lambda against its closed form, log((1 - m)/m) + log(t/(1 - t)) for a target t."""
    base, wanted = moments.base_moments["positive"].value, moments.targets["positive"]
    error = abs(
        moments.multipliers["positive"] - math.log(wanted / (1 - wanted) * (1 - base) / base)
    )
    return Finding(f"lambda is its closed form to {error:.0e}", error < 1e-6)


def findings_of(task: Task, rows: Mapping[str, Row]) -> list[Finding]:
    """The dissociation, on one constraint."""
    label = f"asked for {task.goal:.0%}"
    start, pure, target = rows[PRIOR], rows[PURE], rows[TARGET]
    away = pure["nearer"].times(-1)
    left = pure["distinct_2"].value / target["distinct_2"].value
    lost = f"{left:.0%} of the distinct-2 of p*, self-BLEU {pure['self_bleu'].value:.2f} for {target['self_bleu'].value:.2f}"
    findings = [
        Finding(
            f"{label}, {PURE} is at {pure['met'].value:.0%}, {away.value:.3g} nats further from p* than the prior",
            away.value > 3 * away.standard_error and pure["met"].value > start["met"].value,
        ),
        Finding(
            f"{label}, {PURE} has {lost}",
            left < COLLAPSED and pure["self_bleu"].value > target["self_bleu"].value,
        ),
    ]
    for name in (GDC, PENALISED):
        row = rows[name]
        nearer, left = row["nearer"], row["distinct_2"].value / target["distinct_2"].value
        off, off_before = abs(row["met"].value - task.goal), abs(start["met"].value - task.goal)
        error = math.hypot(row["met"].standard_error, start["met"].standard_error)
        findings += [
            Finding(
                f"{label}, {name} goes from {start['met'].value:.0%} to {row['met'].value:.0%}, {1 - off / off_before:.0%} of "
                f"the way (over {REACHED:.0%}, and by 3 standard errors)",
                off < (1 - REACHED) * off_before and off_before - off > 3 * error,
            ),
            Finding(
                f"{label}, {name} is nearer to p* than the prior by {nearer} nats",
                nearer.value > 3 * nearer.standard_error,
            ),
            Finding(
                f"{label}, {name} has {left:.0%} of the distinct-2 of p* (over {COLLAPSED:.0%})",
                left > COLLAPSED,
            ),
        ]
    return findings


def dissociation_figure(
    rows: Mapping[str, Mapping[str, Row]], goals: Mapping[str, float]
) -> Figure:
    """For each constraint, how often it is met against KL(p* || q), nats, of every method, ± 2 standard errors."""
    figure, every = plt.subplots(1, len(rows), figsize=(5.2 * len(rows), 4.0), squeeze=False)
    for axes, (title, of_task) in zip(every[0], rows.items(), strict=True):
        axes.axhline(
            goals[title], color=figures.POSTERIOR, linestyle="--", linewidth=1, label="as asked for"
        )
        shown = {name: row for name, row in of_task.items() if name != TARGET}
        for (name, row), color in zip(shown.items(), figures.palette(len(shown)), strict=True):
            kl, met = row["kl_posterior_guide"], row["met"]
            bars = {"xerr": [2 * kl.standard_error], "yerr": [2 * met.standard_error]}
            axes.errorbar([kl.value], [met.value], **bars, color=color, fmt="o", label=name)
        axes.set(
            xlabel="KL(p* || q), nats",
            ylabel="constraint met",
            title=title,
            ylim=(-0.05, 1.08),
            xscale="log",
        )
        axes.spines[["top", "right"]].set_visible(False)
    every[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    run_script(main, DistributionMatching)

"""Metrics of a guide, of the prior and of the target; table, findings and figure of them."""

import math
from collections.abc import Mapping

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.distribution_matching.tasks import GDC, PENALISED, PURE, Task
from experiments.shared.claims import Finding, within
from experiments.shared.figures import POSTERIOR, legend_below, looks
from experiments.shared.tables import summary, table_of
from guides import Guide
from inference import Estimate, PriorSample, diagnose, random_state, sample_prior
from inference.diagnostics.diversity import distinct_n, self_bleu
from inference.targets.moments import MomentMatch
from model import Prompts

PRIOR, TARGET = "prior", "p*"
PARTS = 4
"""Number of parts of the responses, for standard errors of distinct-n and self-BLEU."""
REACHED = 1 / 3
"""Share of the way from the prior to the goal. A method that works is further."""
COLLAPSED = 0.5
"""Share of the distinct-2 of p*. With less, the language is lost."""
Row = Mapping[str, Estimate]


def sample_target(task: Task, prompts: Prompts, num_draws: int) -> PriorSample:
    """Draws of the prior, of which the accepted ones are draws of p*; exit if too few are."""
    bound = task.target.log_likelihood_bound(prompts)
    sample = sample_prior(task.target, prompts, num_draws, log_likelihood_bound=bound)
    accepted = 0 if sample.accepted is None else int(sample.accepted.sum())
    if accepted < 2 * PARTS:
        few = f"{accepted} of {num_draws} draws of the prior are draws of p*"
        fix = "raise --draws, or choose a more frequent constraint"
        raise SystemExit(f"{task.name}: {few}, expected at least {2 * PARTS}: {fix}")
    return sample


@torch.no_grad()
def measure(
    task: Task, prompts: Prompts, sample: PriorSample, num_samples: int, guide: Guide | None
) -> Row:
    """Metrics of a guide, or of p* if the guide is None, for one prompt.

    `nearer` is KL(p* || p0) - KL(p* || q) = E_p*[log q/p0].
    Means under p* are over `sample`, from `sample_target`; at most as many responses as accepted.
    """
    assert sample.accepted is not None
    target = sample.response[sample.accepted[:, 0]]  # [A, N, T], draws of p*
    size = min(num_samples, len(target)) // PARTS * PARTS
    log_prior = task.target.prior(prompts).log_prob(target)
    if guide is None:
        response, kl = target[:size], sample.kl(sample.log_likelihood)
        # -log p* = -log p0 - log p*/p0
        metrics = {"KL(q||p0)": kl, "entropy": Estimate.of_mean(-log_prior[:size]).minus(kl)}
    else:
        diagnostics = diagnose(task.target, guide, prompts, num_samples=size, prior_sample=sample)
        distribution = guide.distribution(prompts)
        with random_state.measuring():
            response = distribution.sample((size,))
        metrics = {
            "KL(p*||q)": diagnostics.kl_posterior_guide,
            "KL(q||p0)": diagnostics.kl_guide_prior,
            "entropy": diagnostics.entropy,
            "nearer": diagnostics.posterior_log_ratio,
        }
    parts = []
    for part in response.chunk(PARTS):
        is_token = task.target.prior.space.is_token(part)
        distinct = {f"distinct-{n}": distinct_n(part, is_token, n) for n in (1, 2)}
        parts.append(distinct | {"self-BLEU-5": self_bleu(part, is_token)})
    met = Estimate.of_share(task.feature(prompts, response))
    return {"constraint": met, **metrics, **summary(parts)}


def metrics_table(title: str, rows: Mapping[str, Row]) -> str:
    """Table of the metrics of one constraint, by method."""
    shown = {
        name: {key: value for key, value in row.items() if key != "nearer"}
        for name, row in rows.items()
    }
    return table_of(title, shown)


def lambda_finding(moments: MomentMatch) -> Finding:
    """Finding on lambda: log((1 - m)/m) + log(t/(1 - t)) for a prior's share m and a target t."""
    base, target = moments.base_moments["positive"].value, moments.targets["positive"]
    exact = math.log(target / (1 - target) * (1 - base) / base)
    error = abs(moments.multipliers["positive"] - exact)
    return within("lambda, distance from its closed form", error, below=1e-6)


def findings_of(goal: float, rows: Mapping[str, Row]) -> list[Finding]:
    """Findings on the dissociation, for one constraint and a goal for E[phi]."""
    target, pure, start = rows[TARGET], rows[PURE], rows[PRIOR]["constraint"]

    def diversity(name: str, **limits: float) -> Finding:
        share = rows[name]["distinct-2"].value / target["distinct-2"].value
        subject = f"goal {goal:.0%}, {name}, share of the distinct-2 of p*"
        return within(subject, share, **limits)

    away = pure["nearer"].times(-1)
    rate, bleu = pure["constraint"].value, pure["self-BLEU-5"].value
    worse = f"meets {rate:.0%}, {away} nats further from p* than the prior"
    target_bleu, subject = target["self-BLEU-5"].value, f"goal {goal:.0%}, {PURE}"
    findings = [
        Finding(f"{subject} {worse}", away.is_above(0.0) and rate > start.value),
        diversity(PURE, below=COLLAPSED),
        Finding(f"{subject} has self-BLEU {bleu:.2f}, p* {target_bleu:.2f}", bleu > target_bleu),
    ]
    for name in (GDC, PENALISED):
        met, nearer = rows[name]["constraint"], rows[name]["nearer"]
        subject = f"goal {goal:.0%}, {name}"
        way, left = abs(start.value - goal), abs(met.value - goal)
        error = math.hypot(met.standard_error, left / way * start.standard_error) / way
        goes = f"{subject} goes from {start.value:.0%} to {met.value:.0%}, share of the way"
        findings += [
            within(goes, Estimate(1 - left / way, error), above=REACHED),
            within(f"{subject} is nearer to p* than the prior, nats", nearer, above=0.0),
            diversity(name, above=COLLAPSED),
        ]
    return findings


def dissociation_figure(rows: Mapping[Task, Mapping[str, Row]]) -> Figure:
    """Share of responses that meet each constraint against KL(p* || q), by method, ± 2 errors."""
    size = 6.6, 1.0 + 2.3 * len(rows)
    figure, every = plt.subplots(len(rows), 1, figsize=size, sharex=True, squeeze=False)
    for axes, (task, of_task) in zip(every[:, 0], rows.items(), strict=True):
        axes.axhline(task.goal, color=POSTERIOR, linestyle="--", linewidth=1, label="goal")
        shown = {name: row for name, row in of_task.items() if name != TARGET}
        for (name, row), look in zip(shown.items(), looks(len(shown)), strict=True):
            kl, met = row["KL(p*||q)"], row["constraint"]
            bars = {"xerr": [2 * kl.standard_error], "yerr": [2 * met.standard_error]}
            axes.errorbar([kl.value], [met.value], **bars, **look, linestyle="", label=name)
        axes.set(ylabel="share that meets it", title=f"Constraint: {task.name}")
        axes.set(ylim=(-0.05, 1.08), xscale="log")
    axes.set_xlabel("KL(p* || q), nats (± 2 s.e.)")
    figure.suptitle("To meet a constraint is not to reach p*")
    legend_below(figure, axes)
    return figure

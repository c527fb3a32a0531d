"""Distillation of best of n on English, in few steps.

Claim: a guide by SVI and a guide by distillation are not above the posteriors of all beta. In the
few steps of this script, both stay well below their targets, as the table shows.
Source: Amini et al. 2024, arXiv 2407.06057; Gui et al. 2024, arXiv 2406.00832.
Printed: KL to the prior and reward of guide and target, and the reward of the posterior at the
guide's KL, with standard errors. Written: the guides on the plane of reward against KL.

The embedded prior writes at most 12 tokens at temperature 0.7, rewarded for VADER sentiment.

    python -m experiments.distillation_text
"""

from dataclasses import dataclass
from typing import Annotated

from experiments.shared.argument_types import Count, Positive, count
from experiments.shared.claims import FigureArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.figures import legend_below, plane_figure, save_all
from experiments.shared.tables import Pairs, pair_table
from experiments.shared.training import train
from guides import FineTuned
from inference import BestOfN_ELBO, LeaveOneOut_ELBO, PriorSample, random_state, sample_prior
from inference.diagnostics.diagnose import diagnose
from inference.order_statistics import best_of_n_log_ratio, level_cdf
from model import AlignmentModel, TextReward, vader_sentiment
from model.prior.named_priors import load_prior


@dataclass(frozen=True)
class DistillationText(FigureArguments):
    """Train a language model of English towards the best of n and towards a posterior."""

    size: Annotated[int, count(2, 100_000)] = 16
    """Group size n of the distilled guide."""
    beta: Positive = 0.1
    """Reward per nat of the guide by SVI."""
    steps: Count = 30
    """Number of SVI steps."""
    particles: Annotated[int, count(2)] = 32
    """Number of responses in each step."""
    draws: Annotated[int, count(64)] = 4096
    """Number of prior draws behind the posteriors."""


def main(args: DistillationText) -> list[Finding]:
    prior = load_prior("film-reviews", max_new_tokens=12, temperature=0.7)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), args.beta)
    prompts = prior.encode(["The film was"])
    objectives = {
        f"SVI, beta {args.beta:g}": LeaveOneOut_ELBO(args.particles),
        f"distilled, n = {args.size}": BestOfN_ELBO(args.particles, n=args.size),
    }
    places = {}
    with random_state.isolated(0):
        draws = sample_prior(model, prompts, args.draws, independent=True)
        for name, objective in objectives.items():
            guide = FineTuned(prior)
            train(guide, model, prompts, objective, args.steps)
            diagnostics = diagnose(model, guide, prompts, num_samples=256, prior_sample=draws)
            reward = diagnostics.log_likelihood.times(args.beta)
            places[name] = diagnostics.kl_guide_prior, reward
    sample = PriorSample.of_draws(draws.response, args.beta * draws.log_likelihood)
    levels = level_cdf(sample.log_likelihood, sample.log_prior_weight.exp())
    log_ratios = draws.log_likelihood, best_of_n_log_ratio(*levels, args.size)
    rows: dict[str, Pairs] = {}
    findings = []
    for (name, (kl, reward)), log_ratio in zip(places.items(), log_ratios, strict=True):
        rows[name] = [
            ("KL(q||p0)", kl),
            ("E[r]", reward),
            ("posterior's E[r]", f"{sample.frontier_at(kl.value):.4f}"),
            ("target's KL", sample.kl(log_ratio)),
            ("target's E[r]", sample.mean(log_ratio, sample.log_likelihood)),
        ]
        highest = sample.frontier_at(kl.value + 3 * kl.standard_error)
        held = reward.value - 3 * reward.standard_error <= highest
        findings.append(Finding(f"{name} is not above the posteriors by 3 standard errors", held))
    title = f"Guides on the embedded prior, {args.steps} steps; {args.draws} draws of the prior"
    heading = "Guides end below the posteriors, which none exceeds\n(the embedded prior; ± 2 s.e.)"
    figure, axes = plane_figure(sample, places, heading)
    legend_below(figure, axes)
    save_all(args, "distillation-text", {"text": figure})
    return conclude(__doc__, [pair_table(title, rows)], findings)


if __name__ == "__main__":
    run_script(main, DistillationText)

"""Reward alone on English: the language is lost long before the collapse to a point.

Claim: reward alone leaves the language and its variety of words; with the KL penalty the guide
stays near the prior. The collapse to a point, see `collapse`, lies far beyond these steps: the
reward is nearly flat where every word is praise. Reward alone first gives up the language, then
most of the words, and last the order of the rest.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, sections 2 and 3.
Printed: reward, entropy, distinct-2 and KL to the prior, with standard errors over four parts of
the responses of one guide of each objective.

The embedded prior writes at most 12 tokens at temperature 0.7, rewarded for VADER sentiment.

    python -m experiments.collapse_text
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from experiments.shared.argument_types import Count, Positive, Rate, count
from experiments.shared.claims import ClaimArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.tables import pair_table, summary
from experiments.shared.training import PENALISED, PURE, RL, train
from guides import FineTuned
from inference import Estimate, joint_at, random_state
from inference.diagnostics.distinct_n import distinct_n
from model import AlignmentModel, Prompts, TextReward, vader_sentiment
from model.prior.named_priors import load_prior

PARTS = 4
"""Number of parts of the responses, for standard errors."""


@dataclass(frozen=True)
class CollapseText(ClaimArguments):
    """Train a language model of English on the reward with and without the KL penalty."""

    beta: Positive = 0.1
    """Reward per nat."""
    steps: Count = 40
    """Number of SVI steps."""
    learning_rate: Rate = 1e-4
    """Peak learning rate of Adam, the same for every objective. Steps of a limited size in nats
    would end before reward alone has left the language."""
    particles: Annotated[int, count(2)] = 32
    """Number of responses in each step."""
    draws: Annotated[int, count(8)] = 256
    """Number of responses behind the metrics of a guide."""


def main(args: CollapseText) -> list[Finding]:
    prior = load_prior("film-reviews", max_new_tokens=12, temperature=0.7)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), args.beta)
    prompts = prior.encode(["The film was"])
    guides = {"prior": FineTuned(prior)}
    for name, objective in RL.items():
        guide = guides[name] = FineTuned(prior)
        loss = objective(args.particles)
        train(guide, model, prompts, loss, args.steps, learning_rate=args.learning_rate)
    metrics = {
        name: measure(model, guide, prompts, args.draws // PARTS) for name, guide in guides.items()
    }
    title = f"Sentiment on the embedded prior, beta {args.beta:g}, {args.steps} steps"
    table = pair_table(title, {name: row.items() for name, row in metrics.items()})
    return conclude(__doc__, [table], findings_of(metrics))


@torch.no_grad()
def measure(
    model: AlignmentModel, guide: FineTuned, prompts: Prompts, num_draws: int
) -> dict[str, Estimate]:
    """Metrics of a guide's responses to one prompt, with standard errors over the parts."""
    parts = []
    with random_state.isolated(0), random_state.measuring():
        for _ in range(PARTS):
            distribution = guide.distribution(prompts)
            response = distribution.sample((num_draws,))
            log_guide = distribution.log_prob(response).double()
            joint = joint_at(model, prompts, response)
            is_token = model.prior.space.is_token(response)
            metrics = {
                "E[r]": model.beta * joint.log_likelihood.mean().item(),
                "entropy": -log_guide.mean().item(),
                "distinct-2": distinct_n(response, is_token, 2),
                "KL(q||p0)": (log_guide - joint.log_prior).mean().item(),
            }
            parts.append(metrics)
    return summary(parts)


def findings_of(metrics: Mapping[str, Mapping[str, Estimate]]) -> list[Finding]:
    """Findings on the variety of words, and on the distance from the prior.

    The entropy is in the table alone, because the entropy does not fall in these steps.
    """
    left = {name: row["distinct-2"].value for name, row in metrics.items()}
    kl = {name: row["KL(q||p0)"].value for name, row in metrics.items()}
    share = "share of the prior's distinct-2"
    near = f"{PENALISED} {kl[PENALISED]:.2g} nats from the prior, {PURE} {kl[PURE]:.3g}"
    return [
        Finding.of_limits(f"{PURE}, {share}", [left[PURE] / left["prior"]], below=0.5),
        Finding.of_limits(f"{PENALISED}, {share}", [left[PENALISED] / left["prior"]], above=0.5),
        Finding(f"{near} (a tenth at most)", kl[PENALISED] < 0.1 * kl[PURE]),
    ]


if __name__ == "__main__":
    run_script(main, CollapseText)

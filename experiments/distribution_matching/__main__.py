"""Distribution matching, and not RL, is the reason why RL with a KL penalty works.

Question: what makes a language model meet a constraint and remain a language model, and what does
reward alone do to a language model of English in few steps?
Claim: a double dissociation. RL without distribution matching fails: reward alone meets the
constraint, or overshoots it, and loses the language. Distribution matching without RL works: GDC
descends KL(p* || q), an expectation under p* and of no reward. RL with a KL penalty works, because
the penalty makes RL descend KL(q || p*), to the same p*: distribution matching.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, section 5; GDC: Khalifa et al. 2021,
arXiv 2012.11635, with the baseline of Korbak et al. 2022, arXiv 2206.00761.
Printed, as in these papers: how often the constraint is met, KL(p* || q), KL(q || p0), distinct-n,
self-BLEU-5 and entropy, with standard errors. Written: constraint and KL of every method.

Reward alone gives up the language and the variety of words; the collapse to a point, see
`collapse`, lies far beyond these steps. The guide is `Twisted`, which moves furthest in few steps.
`tasks` has the two constraints.

    python -m experiments.distribution_matching
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from experiments.distribution_matching import report, tasks
from experiments.shared.argument_types import Count, Name, Positive, Rate, Seeds, count, number
from experiments.shared.claims import FigureArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.figures import save_all
from experiments.shared.tables import over_seeds
from experiments.shared.training import train
from guides import Twisted
from inference import match_moments, random_state
from model import AlignmentModel
from model.prior.named_priors import load_prior


@dataclass(frozen=True)
class DistributionMatching(FigureArguments):
    """Compare RL without distribution matching, matching without RL, and RL with a KL penalty."""

    word: Name = "very"
    """Word of the pointwise constraint: every response has it."""
    share: Annotated[float, number(above=0, below=1)] = 0.5
    """Share of positive responses, by VADER, of the distributional constraint."""
    beta: Positive = 0.2
    """Reward per nat of RL with a KL penalty, for the pointwise constraint."""
    max_new_tokens: Annotated[int, count(1, 100, "the embedded prior reads 128 tokens")] = 6
    """Largest number of tokens in a response. Gradients of shorter responses need fewer steps."""
    steps: Count = 80
    """Number of SVI steps of each method."""
    particles: Annotated[int, count(2)] = 64
    """Number of responses in each step."""
    rate: Rate = 5e-3
    """Peak learning rate of Adam, the same for every objective. Steps of a limited size in nats
    would end before reward alone has left the language."""
    seeds: Seeds = 1
    """Number of guides of each method. With several, standard errors are over seeds."""
    draws: Annotated[int, count(8)] = 8192
    """Number of prior draws behind lambda, KL(p* || q) and the metrics of p*."""
    samples: Annotated[int, count(8)] = 4096
    """Number of responses of each guide, in four parts for distinct-n and self-BLEU."""


def main(args: DistributionMatching) -> list[Finding]:
    prior = load_prior("film-reviews", max_new_tokens=args.max_new_tokens, temperature=0.7)
    prompts = prior.encode(["The film was"])
    rate = args.rate
    rows: dict[tasks.Task, dict[str, report.Row]] = {}
    with random_state.isolated(0):
        features, targets = {"positive": tasks.positive(prior)}, {"positive": args.share}
        base = AlignmentModel(prior, {}, 1.0)
        moments = match_moments(base, prompts, features, targets, num_draws=args.draws)
        both = tasks.pointwise(prior, args.word, args.beta), tasks.distributional(prior, moments)
        for task in both:
            sample = report.sample_target(task, prompts, args.draws)
            measured = partial(report.measure, task, prompts, sample, args.samples)
            rows[task] = {report.PRIOR: measured(Twisted(prior)), report.TARGET: measured(None)}
            for name, method in tasks.METHODS.items():
                model = task.target if name == tasks.GDC else task.rewarded
                of_seeds = []
                for seed in range(args.seeds):
                    guide, loss = Twisted(prior), method(args.particles)
                    train(guide, model, prompts, loss, args.steps, learning_rate=rate, seed=seed)
                    of_seeds.append(measured(guide))
                rows[task][name] = over_seeds(of_seeds)
    tables, findings = [str(moments)], [report.lambda_finding(moments)]
    for task, of_task in rows.items():
        title = f"{task.name}; {args.steps} steps of {args.particles}"
        tables.append(report.metrics_table(title, of_task))
        findings += report.findings_of(task.goal, of_task)
    save_all(args, "distribution-matching", {"dissociation": report.dissociation_figure(rows)})
    return conclude(__doc__, tables, findings)


if __name__ == "__main__":
    run_script(main, DistributionMatching)

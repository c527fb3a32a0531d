"""Distribution collapse: a failure of optimisation, or the optimum of the objective?

Claim: collapse is the optimum. max E_q[r] is reached by a point mass, however good the reward and
the gradient are; max E_q[r] - beta KL(q || p0) by p*(x) = p0(x) exp(r(x)/beta) / Z alone.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, sections 2 and 3.
Printed: reward, entropy, distinct-2 and KLs before and after, with standard errors over seeds.
Written: the entropy by step.

All responses are listed. The exact gradient leaves nothing to exploration or noise; leave-one-out
(`RewardOnly` for reward alone) estimates the same gradient from a few responses. See also
`binary_reward` for a reward of 0 and 1, and `collapse_text` for the embedded prior.

    python -m experiments.collapse
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pyro.infer import ELBO
from torch import Tensor

from experiments.collapse.report import entropy_figure, findings_of, measure, mode
from experiments.shared.argument_types import Count, Out, Positive, Seeds, Threads, count
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import save_all
from experiments.shared.tables import cells, text_table
from experiments.shared.training import ascend, early_stops, train
from experiments.shared.workers import set_threads
from guides import FineTuned
from inference import Enumeration, LeaveOneOut_ELBO, entropy
from inference.objectives.reward_only import RewardOnly
from inference.svi.step import Metrics
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

PURE, PENALISED = "reward alone", "with the KL penalty"
OBJECTIVES: dict[str, Callable[[int], ELBO]] = {PURE: RewardOnly, PENALISED: LeaveOneOut_ELBO}
RATE = 3e-3


@dataclass(frozen=True)
class Collapse(Arguments):
    """Maximise the reward with and without the KL penalty, by the exact gradient and by SVI."""

    beta: Positive = 0.3
    """Reward per nat."""
    steps: Count = 100
    """Number of gradient steps."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in each step of SVI."""
    seeds: Seeds = 3
    """Number of SVI runs of each objective."""
    draws: Annotated[int, count(2)] = 64
    """Number of responses behind each distinct-2."""
    threads: Threads | None = 1
    """Number of CPU threads; None for torch's choice."""
    out: Out = Path("runs")
    """Parent folder of the run folder."""


class Run(NamedTuple):
    """log q of all responses after training, `[S, 1]`, and the entropy of q by step, nats."""

    log_guide: Tensor
    entropy: Mapping[int, float]


def main(args: Collapse) -> list[Finding]:
    set_threads(args.threads)
    prior = grammar_prior(max_new_tokens=3)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), args.beta)
    truth = Enumeration(model, prior.encode(["the film was"]))
    runs: dict[str, list[Run]] = {}
    with early_stops() as stops:
        for name in OBJECTIVES:
            exact, *sampled = [
                run(model, truth, name, args.steps, args.particles, seed)
                for seed in (None, *range(args.seeds))
            ]
            runs |= {f"{name}, exact gradient": [exact], f"{name}, sampled": sampled}
    log_probs = {name: [run.log_guide for run in of_name] for name, of_name in runs.items()}
    log_probs = {"prior": [truth.log_prior], **log_probs, "posterior": [truth.log_posterior]}
    rows, metrics = {}, {}
    for name, of_name in log_probs.items():
        metrics[name] = [measure(model, truth, log_prob, args.draws) for log_prob in of_name]
        modes = dict.fromkeys(mode(model, truth, log_prob) for log_prob in of_name)
        rows[name] = [*cells(metrics[name]), "; ".join(modes)]
    table = text_table([*metrics["prior"][0], "most probable"], rows)
    title = f"Sentiment on the grammar, beta {args.beta:g}, {args.steps} steps, {args.seeds} seeds"
    entropies = {name: [run.entropy for run in of_name] for name, of_name in runs.items()}
    levels = {name: metrics[name][0]["entropy"] for name in ("prior", "posterior")}
    save_all(args, "collapse", {"collapse": entropy_figure(entropies, levels)})
    findings = findings_of(metrics, PURE, PENALISED)
    return conclude(__doc__, [f"{title}\n{table}"], findings, stops)


def run(
    model: AlignmentModel,
    truth: Enumeration,
    name: str,
    steps: int,
    particles: int,
    seed: int | None,
) -> Run:
    """Train a guide by SVI, or by the exact gradient if the seed is None."""
    guide, nats = FineTuned(model.prior), {0: entropy(truth.log_prior).item()}

    def record(_: FineTuned, metrics: Metrics) -> None:
        step = int(metrics["step"])
        if step % max(1, steps // 20) == 0 or step == steps:
            nats[step] = entropy(truth.log_guide(guide)).item()

    if seed is None:
        penalty = name == PENALISED
        ascend(guide, truth, steps, learning_rate=RATE, kl_penalty=penalty, on_step=record)
    else:
        fit: dict[str, Any] = {"learning_rate": RATE, "seed": seed, "on_step": record}
        train(guide, model, truth.prompts, OBJECTIVES[name](particles), steps, **fit)
    return Run(truth.log_guide(guide), nats)


if __name__ == "__main__":
    run_script(main, Collapse)

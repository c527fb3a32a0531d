"""Distribution collapse: a failure of optimisation, or the optimum of the objective?

Claim: collapse is the optimum. max E_q[r] is reached by a point mass, however good the reward and
the gradient are; max E_q[r] - beta KL(q || p0) by p*(x) = p0(x) exp(r(x)/beta) / Z alone.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, sections 2 and 3.
Printed: reward, entropy, distinct-2 and KLs before and after, with standard errors over seeds.
Written: the entropy by step.

All responses are listed. The exact gradient leaves nothing to exploration or noise; leave-one-out
(`RewardOnly` for reward alone) estimates the same gradient from a few responses. See also
`verifiable` for a reward of 0 and 1, and `distribution_matching` for English.

    python -m experiments.collapse
"""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from experiments.collapse.report import entropy_figure, findings_of, measure, mode
from experiments.shared.argument_types import Count, Positive, Seeds, count
from experiments.shared.claims import FigureArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.figures import save_all
from experiments.shared.tables import Row, summary, table_of
from experiments.shared.training import PENALISED, RL, ascend, train
from guides import FineTuned
from inference import Enumeration, Estimate, entropy
from inference.svi.response_metrics import Metrics
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

RATE = 3e-3
"""Peak learning rate of Adam, the same for the exact and for the sampled gradient."""


@dataclass(frozen=True)
class Collapse(FigureArguments):
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


def main(args: Collapse) -> list[Finding]:
    prior = grammar_prior(max_new_tokens=3)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), args.beta)
    truth = Enumeration(model, prior.encode(["the film was"]))
    log_probs, entropies = {"prior": [truth.log_prior]}, {}
    for objective in RL:
        for way, seeds in (("exact gradient", [None]), ("sampled", range(args.seeds))):
            runs = [run(args, model, truth, objective, seed) for seed in seeds]
            name = f"{objective}, {way}"
            log_probs[name], entropies[name] = map(list, zip(*runs, strict=True))
    log_probs["posterior"] = [truth.log_posterior]
    metrics: dict[str, dict[str, Estimate]] = {}
    rows: dict[str, Row] = {}
    for name, of_name in log_probs.items():
        measured = [measure(model, truth, log_prob, args.draws) for log_prob in of_name]
        metrics[name] = summary(measured)
        modes = dict.fromkeys(mode(model, truth, log_prob) for log_prob in of_name)
        rows[name] = {**metrics[name], "most probable": "; ".join(modes)}
    title = f"Sentiment on the grammar, beta {args.beta:g}, {args.steps} steps, {args.seeds} seeds"
    levels = {name: metrics[name]["entropy"].value for name in ("prior", "posterior")}
    save_all(args, "collapse", {"collapse": entropy_figure(entropies, levels)})
    return conclude(__doc__, [table_of(title, rows)], findings_of(metrics))


def run(
    args: Collapse, model: AlignmentModel, truth: Enumeration, objective: str, seed: int | None
) -> tuple[Tensor, dict[int, float]]:
    """Train a guide by SVI, or by the exact gradient if the seed is None.

    Returns:
        log q of all responses after training, `[S, 1]`; the entropy of q by step, nats.
    """
    guide, nats = FineTuned(model.prior), {0: entropy(truth.log_prior).item()}

    def record(metrics: Metrics) -> None:
        step = int(metrics["step"])
        if step % max(1, args.steps // 20) == 0 or step == args.steps:
            nats[step] = entropy(truth.log_guide(guide)).item()

    how: dict[str, Any] = {"learning_rate": RATE, "on_step": record}
    if seed is None:
        ascend(guide, truth, args.steps, kl_penalty=objective == PENALISED, **how)
    else:
        loss = RL[objective](args.particles)
        train(guide, model, truth.prompts, loss, args.steps, seed=seed, **how)
    return truth.log_guide(guide), nats


if __name__ == "__main__":
    run_script(main, Collapse)

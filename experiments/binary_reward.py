"""Binary reward: the log-odds of success shift by 1/beta, the ratios within the classes stay.

Claim: for a reward of 0 or 1, the posterior has the log-odds of success shifted by exactly 1/beta,
and p*(x)/p*(y) = p0(x)/p0(y) within successes and within failures. A guide trained with the KL
penalty comes near the posterior; reward alone also moves the ratios within the classes.
Source: Korbak, Perez and Buckley 2022, arXiv 2205.11275, sections 2 and 3.
Printed: P(success), the shift of the log-odds, and the KLs of q(x | class) from p0(x | class), with
standard errors over seeds where responses are drawn.

The reward is 1 for responses with the word "not". All responses are listed.

    python -m experiments.binary_reward
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from experiments.shared.argument_types import Count, Positive, Seeds, count
from experiments.shared.claims import ClaimArguments, Finding, conclude, largest
from experiments.shared.command_line import run_script
from experiments.shared.tables import cell, pair_table, summary
from experiments.shared.training import PENALISED, PURE, train
from guides import FineTuned
from inference import Enumeration, Estimate, LeaveOneOut_ELBO
from inference.enumeration import kl
from inference.svi.ascend import ascend
from model import AlignmentModel, Pattern, TextReward, grammar_prior

EXACT = 1e-10
FROZEN = 0.05
"""KL from q to p0 within the classes, nats, below which the ratios are preserved."""
RATE = 3e-3
"""Adam's learning rate along the exact gradient."""
COLUMNS = ("P(success)", "log-odds shift", "KL in successes", "KL in failures")


@dataclass(frozen=True)
class BinaryReward(ClaimArguments):
    """Measure the odds between the classes of a binary reward, and the ratios within."""

    beta: Positive = 0.3
    """Reward per nat."""
    steps: Count = 100
    """Number of gradient steps."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in each step of SVI."""
    seeds: Seeds = 3
    """Number of SVI runs."""


def main(args: BinaryReward) -> list[Finding]:
    prior = grammar_prior(max_new_tokens=3)
    model = AlignmentModel(prior, TextReward(Pattern.of_words("not"), prior), args.beta)
    prompts = prior.encode(["the film was"])
    truth = Enumeration(model, prompts)
    success = truth.log_likelihood[:, 0] > 0
    log_probs = {"prior": [truth.log_prior]}
    for name, kl_penalty in ((PURE, False), (PENALISED, True)):
        guide = FineTuned(prior)
        ascend(guide, truth, args.steps, learning_rate=RATE, kl_penalty=kl_penalty)
        log_probs[f"{name}, exact gradient"] = [truth.log_guide(guide)]
    sampled = log_probs[f"{PENALISED}, sampled"] = []
    for seed in range(args.seeds):
        guide, objective = FineTuned(prior), LeaveOneOut_ELBO(args.particles)
        train(guide, model, prompts, objective, args.steps, seed=seed)
        sampled.append(truth.log_guide(guide))
    log_probs["posterior"] = [truth.log_posterior]
    metrics = {
        name: summary([measure(log_prob, truth.log_prior, success) for log_prob in of_name])
        for name, of_name in log_probs.items()
    }
    rows = {name: [(column, row[column]) for column in COLUMNS] for name, row in metrics.items()}
    table = pair_table(f'Reward 1 for "not" on the grammar, 1/beta = {1 / args.beta:.4g}', rows)
    return conclude(__doc__, [table], findings_of(metrics, 1 / args.beta))


def measure(log_prob: Tensor, log_prior: Tensor, success: Tensor) -> dict[str, float]:
    """Odds of success, and the distance from the prior within successes and within failures.

    log q and log p0 are `[S, 1]`; `success` is `[S]`, True for a success. Beside the columns of the
    table: `KL within`, the mean of both KLs under q, and `ratio`, the largest change of a log-ratio
    within a class, nats.
    """
    log_prob, log_prior = log_prob[:, 0], log_prior[:, 0]
    shift, kls, ratios = 0.0, [], []
    for sign, members in ((1, success), (-1, ~success)):
        log_q, log_p = log_prob[members], log_prior[members]
        shift += sign * (log_q.logsumexp(0) - log_p.logsumexp(0)).item()
        within = log_q.log_softmax(0)
        kls.append(kl(within, log_p.log_softmax(0)).item())
        ratios.append((log_q - log_p).max().item() - (log_q - log_p).min().item())
    prob = log_prob[success].exp().sum().item()
    metrics = dict(zip(COLUMNS, (prob, shift, *kls), strict=True))
    return metrics | {"KL within": prob * kls[0] + (1 - prob) * kls[1], "ratio": largest(ratios)}


def findings_of(
    metrics: Mapping[str, Mapping[str, Estimate]], expected_shift: float
) -> list[Finding]:
    """Findings on the odds between the classes, and on the ratios within."""
    posterior = metrics["posterior"]
    errors = [abs(posterior["log-odds shift"].value - expected_shift), posterior["ratio"].value]
    subject = "error of the posterior's log-odds shift, change of a log-ratio within a class"
    findings = [Finding.of_limits(subject, errors, below=EXACT)]
    for name, row in metrics.items():
        within, (shift, error) = row["KL within"].value, row["log-odds shift"]
        if name.startswith(PURE):
            findings.append(Finding.of_limits(f"{name}, KL within classes", [within], above=FROZEN))
        if name.startswith(PENALISED):
            limit = max(0.1, 3 * error if math.isfinite(error) else 0.0)
            subject = f"{name}, error of the log-odds shift {cell(shift, error)}"
            findings += [
                Finding.of_limits(subject, [abs(shift - expected_shift)], below=limit),
                Finding.of_limits(f"{name}, KL within classes", [within], below=FROZEN),
            ]
    return findings


if __name__ == "__main__":
    run_script(main, BinaryReward)

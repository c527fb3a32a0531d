"""Tables and findings of `verifiable`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experiments.shared.claims import Finding, largest, within
from experiments.shared.tables import Row, table_of
from experiments.shared.training import PENALISED, PURE
from experiments.verifiable.success import Success
from inference import Enumeration, Estimate
from inference.estimate import REFUTED
from model import AlignmentModel, Constraint, Prompts

EXACT = 1e-10
KEPT = 0.05
"""Diversity lost, nats, below which the prior's ratios are preserved."""
ODDS = "error of the posterior's shift of the log-odds by 1/beta, of a log-ratio within a class"


def success_table(title: str, policies: Mapping[str, Success]) -> str:
    """Table with a row for each distribution."""
    rows: dict[str, Row] = {}
    for name, each in policies.items():
        row = {
            "success": each.rate,
            "KL(q||p*)": each.kl,
            "KL of the rates": each.bernoulli,
            "diversity lost": each.lost,
            **{f"pass@{k}": value for k, value in each.pass_at_k.items() if k > 1},
        }
        rows[name] = {  # an exact number without its error of 0
            key: estimate if estimate.standard_error else f"{estimate.value:.4g}"
            for key, estimate in row.items()
        }
    return table_of(title, rows)


def filtered_error(
    model: AlignmentModel, prompts: Prompts, truth: Enumeration, success: Tensor
) -> float:
    """Largest difference of log p* given "correct" from log p0 within the right answers, nats."""
    (reward,) = model.rewards.values()
    correct = {"correct": Constraint(reward, at_least=1.0)}
    given = Enumeration(AlignmentModel(model.prior, {}, 1.0, correct), prompts)
    own = truth.log_prior.masked_fill(success == 0, -torch.inf).log_softmax(0)
    is_right = success == 1
    if bool((given.log_posterior[~is_right] > -torch.inf).any()):
        return torch.inf
    return (given.log_posterior - own)[is_right].abs().max().item()


def odds_errors(truth: Enumeration, success: Tensor, beta: float) -> tuple[float, float]:
    """Errors of "p* shifts the log-odds of success by 1/beta, and no ratio within a class", nats.

    Largest error over prompts of the log-odds, and of a log-ratio; `success` is `[S, N]`, 1 or 0.
    """

    def log_odds(log_prob: Tensor) -> Tensor:
        right, wrong = (log_prob.masked_fill(success == c, -torch.inf) for c in (0, 1))
        return right.logsumexp(0) - wrong.logsumexp(0)

    shift = log_odds(truth.log_posterior) - log_odds(truth.log_prior)
    constant = truth.log_posterior - truth.log_prior - success / beta  # minus log Z
    ratio = constant.amax(0) - constant.amin(0)
    return (shift - 1 / beta).abs().max().item(), ratio.max().item()


def exact_findings(
    exact: Mapping[str, Success],
    drawn: Mapping[str, Success],
    errors: Sequence[float],
    odds: Sequence[float],
) -> list[Finding]:
    """Findings on the exact numbers, and on the estimates beside them.

    `errors` are of the chain rule at each distribution, and of the posterior given "correct";
    `odds` are by `odds_errors`.
    """
    *chain_rule, filtered = errors
    penalised, pure = exact[PENALISED].lost.value, exact[PURE].lost.value
    scores = [
        abs(estimate.value - number.value) / max(estimate.standard_error, EXACT)
        for name in (PENALISED, PURE)
        for estimate, number in zip(_numbers(drawn[name]), _numbers(exact[name]), strict=True)
    ]
    least = min(each.lost.value for each in exact.values())
    posterior, prior = exact["posterior"].pass_at_k, exact["prior"].pass_at_k
    gains = [posterior[k].value - prior[k].value for k in prior]
    return [
        within('posterior given "correct", largest error', filtered, below=EXACT),
        within(ODDS, *odds, below=EXACT),
        within("error of the two parts", largest(chain_rule), below=EXACT),
        within("least diversity lost, nats", least, above=-EXACT),
        within(f"{PENALISED}, diversity lost, nats", penalised, below=KEPT),
        within(f"{PURE}, diversity lost, nats", pure, above=KEPT),
        within("gain of pass@k of the posterior", *gains, above=0.0),
        within("largest error in standard errors", largest(scores), below=REFUTED),
    ]


def drawn_findings(drawn: Mapping[str, Success]) -> list[Finding]:
    """Findings on the estimates from draws: the bound, and the rate of success."""
    prior, findings = drawn["prior"], []
    for name, each in drawn.items():
        if name == "prior":
            continue
        lost, gain = each.lost, each.rate.minus(prior.rate)
        held = lost.value > -REFUTED * lost.standard_error
        findings.append(Finding(f"{name}, KL(q || p*) is not below the bound: excess {lost}", held))
        findings.append(within(f"{name}, more successes than the prior", gain, above=0.0))
    return findings


def _numbers(each: Success) -> list[Estimate]:
    return [each.rate, each.kl, each.bernoulli, each.lost, *each.pass_at_k.values()]

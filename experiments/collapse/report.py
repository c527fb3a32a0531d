"""Metrics, findings and figure of the collapse."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.shared.claims import Finding, within
from experiments.shared.figures import GUIDE, POSTERIOR, PRIOR, legend_below, new_axes
from experiments.shared.training import PENALISED, PURE
from inference import Enumeration, Estimate, entropy, random_state
from inference.diagnostics.diversity import distinct_n
from inference.estimate import expectation
from model import AlignmentModel

COLLAPSED = {"entropy": 0.2, "distinct-2": 0.5}
"""Shares of the prior's metrics. A collapsed guide has less."""


def measure(
    model: AlignmentModel, truth: Enumeration, log_prob: Tensor, num_draws: int
) -> dict[str, float]:
    """Metrics of a distribution over all responses to one prompt, `[S, 1]`."""
    prob = log_prob.exp()
    with random_state.isolated(0):
        index = torch.multinomial(prob[:, 0], num_draws, replacement=True)
    response = truth.support[index]  # [M, 1, T]
    return {
        "E[r]": model.beta * expectation(prob, truth.log_likelihood).item(),
        "entropy": entropy(log_prob).item(),
        "distinct-2": distinct_n(response, model.prior.space.is_token(response), 2),
        "KL(q||p0)": expectation(prob, log_prob - truth.log_prior).item(),
        "KL(q||p*)": expectation(prob, log_prob - truth.log_posterior).item(),
    }


def mode(model: AlignmentModel, truth: Enumeration, log_prob: Tensor) -> str:
    """The most probable response, and its probability."""
    text = model.prior.decode(truth.support[int(log_prob.argmax())])[0]
    return f"{text} ({log_prob.max().exp().item():.0%})"


def findings_of(metrics: Mapping[str, Mapping[str, Estimate]]) -> list[Finding]:
    """Limits of each objective's metrics, as shares of the prior's."""

    def share(objective: str, metric: str, **limits: float) -> Finding:
        means = [row[metric].value for name, row in metrics.items() if name.startswith(objective)]
        shares = [mean / metrics["prior"][metric].value for mean in means]
        return within(f"{objective}, share of the prior's {metric}", *shares, **limits)

    findings = []
    for metric, limit in COLLAPSED.items():
        findings += [share(PURE, metric, below=limit), share(PENALISED, metric, above=limit)]
    far, near = share(PURE, "KL(q||p*)", above=1), share(PENALISED, "KL(q||p*)", below=0.1)
    return [*findings, far, near]


def entropy_figure(
    entropies: Mapping[str, Sequence[Mapping[int, float]]], levels: Mapping[str, float]
) -> Figure:
    """Entropy by step of each run, by name, and the entropies of prior and posterior, nats.

    Sampled runs are thin.
    """
    figure, axes = new_axes()
    for name, runs in entropies.items():
        color = GUIDE if name.startswith(PENALISED) else POSTERIOR
        alpha, width = (0.4, 1) if "sampled" in name else (1.0, 2)
        for number, run in enumerate(runs):
            [line] = axes.plot(list(run), list(run.values()), color=color, alpha=alpha, lw=width)
            line.set_label(name if number == 0 else "_")
    for (name, level), style in zip(levels.items(), (":", "--"), strict=True):
        axes.axhline(level, color=PRIOR, linestyle=style, label=name)
    axes.set(xlabel="gradient step", ylabel="entropy of q, nats", ylim=(0, None))
    axes.set_title(
        "Reward alone collapses to a point;\nwith the KL penalty, q ends at the posterior"
    )
    legend_below(figure, axes)
    return figure

"""Figure of the agents' weights by 1/beta."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.agents.speakers import AGENTS, agent_weights
from experiments.shared.figures import new_axes, palette


def agents_figure(
    log_prior: Tensor,
    reward: Tensor,
    rho: Tensor,
    guide_weights: Mapping[float, Mapping[str, tuple[float, float]]],
) -> Figure:
    """Weights of the agents in the posteriors of all beta, and in the guides.

    Args:
        log_prior: `[S, 1]`, log p0.
        reward: `[S, 1]`, r.
        rho: `[A, S]`, responsibilities.
        guide_weights: mean and standard error over seeds, by beta and by agent.
    """
    figure, axes = new_axes()
    inverse = torch.linspace(0, 1.2 / min(guide_weights), 60)
    posteriors = [(log_prior + reward * at).log_softmax(0) for at in inverse.tolist()]
    exact = torch.stack([agent_weights(log_posterior, rho) for log_posterior in posteriors])
    for name, line, color in zip(AGENTS, exact.T, palette(len(AGENTS)), strict=True):
        axes.plot(inverse, line, color=color, label=name)
        means, errors = zip(*(weights[name] for weights in guide_weights.values()), strict=True)
        at = [1 / beta for beta in guide_weights]
        bars = [2 * error for error in errors]
        axes.errorbar(at, means, bars, color=color, fmt="o", markersize=4)
    axes.set(xlabel="1/beta, nats per unit of reward", ylabel="weight of the agent", ylim=(0, None))
    title = "A reward reweights agents: Bayes' rule (lines), guides by SVI (dots, ± 2 s.e.)"
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return figure

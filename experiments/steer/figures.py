"""Figures of a `steer` run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.shared.figures import GUIDE, POSTERIOR, PRIOR, new_axes, plot_frontier, smooth
from inference import Estimate, PriorSample


def elbo_figure(
    metrics: Sequence[dict[str, float]], log_z: Estimate, before: Estimate, after: Estimate
) -> Figure:
    """The ELBO of every step, climbing to log Z; what is left between them is KL(q || p*)."""
    figure, axes = new_axes()
    steps = [record["step"] for record in metrics]
    elbo = [record["elbo"] for record in metrics]
    axes.plot(steps, elbo, color=GUIDE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(elbo), color=GUIDE, label="ELBO of the step, and its mean over ten")
    axes.errorbar(
        [0],
        [before.value],
        [2 * before.standard_error],
        color=PRIOR,
        fmt="o",
        label="ELBO of the prior (± 2 s.e.)",
    )
    axes.errorbar(
        [steps[-1]],
        [after.value],
        [2 * after.standard_error],
        color=GUIDE,
        fmt="o",
        label="ELBO of the guide (± 2 s.e.)",
    )
    axes.axhline(log_z.value, color=POSTERIOR, label="log Z (± 2 s.e.)")
    axes.axhspan(
        log_z.value - 2 * log_z.standard_error,
        log_z.value + 2 * log_z.standard_error,
        color=POSTERIOR,
        alpha=0.15,
        linewidth=0,
    )
    axes.set(
        xlabel="step of SVI",
        ylabel="nats",
        title="The ELBO climbs to log Z; the gap is KL(q || p*)",
    )
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return figure


def reward_kl_figure(
    metrics: Sequence[dict[str, float]],
    bank: PriorSample,
    beta: float,
    after: tuple[Estimate, Estimate],
) -> Figure:
    """Reward against KL to the prior: the guide's way, below the best that any distribution can do."""
    figure, axes = new_axes()
    kl_posterior = plot_frontier(axes, bank, beta)
    path_kl = smooth([record["kl_guide_prior"] for record in metrics])
    path_reward = smooth([record["reward"] for record in metrics])
    axes.plot(
        path_kl,
        path_reward,
        color=GUIDE,
        alpha=0.7,
        linewidth=1,
        label="guide, step by step (mean over ten)",
    )
    kl_after, reward_after = after
    axes.errorbar(
        [kl_after.value],
        [reward_after.value],
        [2 * reward_after.standard_error],
        [2 * kl_after.standard_error],
        color=GUIDE,
        fmt="o",
        label="guide at the end (± 2 s.e.)",
    )
    limit = 1.3 * max(kl_posterior, kl_after.value, float(path_kl.max()))
    axes.set(xlim=(-0.05 * limit, limit))
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return figure

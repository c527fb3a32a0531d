"""Objectives for `pyro.infer.SVI`, one a file, and the registry that scripts and tests go by."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pyro.infer import ELBO

from inference.objectives.analytic_kl import AnalyticKL_ELBO
from inference.objectives.best_of_n import BestOfN_ELBO
from inference.objectives.contrastive_twist import ContrastiveTwist
from inference.objectives.f_divergence import DIVERGENCES, Divergence, FDivergence, alpha_divergence
from inference.objectives.leave_one_out import LeaveOneOut_ELBO
from inference.objectives.log_variance import LogVariance
from inference.objectives.multi_sample import MultiSample_ELBO
from inference.objectives.proximal import Proximal_ELBO
from inference.objectives.pyro_objectives import (
    OnePromptRWS,
    renyi,
    reweighted_wake_sleep,
    trace,
    trace_graph,
)
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.objectives.reward_to_go import RewardToGo_ELBO
from inference.objectives.wake_phi import WakePhi
from model.common.checks import whole_number


class Objective(NamedTuple):
    """An entry of the registry. Calling it makes the objective.

    Attributes:
        make: takes `num_particles`, and options of its own.
        summary: one line.
    """

    make: Callable[..., ELBO]
    summary: str

    def __call__(self, **options: Any) -> ELBO:
        return self.make(**options)


def replayed(num_particles: int = 64) -> LogVariance:
    """Log-variance with three replayed responses for each fresh one, and those drawn from a bolder guide."""
    num_particles = whole_number("num_particles", num_particles)
    return LogVariance(num_particles, replay=3 * num_particles, exploration=1.5)


OBJECTIVES: dict[str, Objective] = {
    "leave-one-out": Objective(
        LeaveOneOut_ELBO, "RLOO: the ELBO, its baseline the mean of the other particles"
    ),
    "trace": Objective(trace, "Pyro's Trace_ELBO: the ELBO by plain REINFORCE"),
    "trace-graph": Objective(
        trace_graph, "Pyro's TraceGraph_ELBO: with one site the same as `trace`"
    ),
    "renyi": Objective(renyi, "Pyro's RenyiELBO at alpha 1/2"),
    "reweighted-wake-sleep": Objective(reweighted_wake_sleep, "Pyro's wake-phi; one prompt a step"),
    "reward-to-go": Objective(
        RewardToGo_ELBO, "the ELBO token by token: each is credited with what comes after it"
    ),
    "reward-to-go-value": Objective(
        partial(RewardToGo_ELBO, baseline="value"), "the same with a learned value function"
    ),
    "analytic-kl": Objective(AnalyticKL_ELBO, "the ELBO with its KL summed over the vocabulary"),
    "log-variance": Objective(
        LogVariance,
        "VarGrad: half the variance of the log-weights; the gradient of `leave-one-out`",
    ),
    "trajectory-balance": Objective(
        replayed, "log-variance off-policy: replay buffer and bolder draws (GFlowNet fine-tuning)"
    ),
    "proximal": Objective(Proximal_ELBO, "PPO: the ELBO in several clipped steps on each batch"),
    "wake-phi": Objective(
        WakePhi, "forward KL by self-normalised importance sampling, for each prompt"
    ),
    "multi-sample": Objective(
        MultiSample_ELBO, "VIMCO: the importance-weighted bound, for each prompt"
    ),
    "contrastive-twist": Objective(
        ContrastiveTwist, "contrastive twist learning, for a guide that has a twist (`twisted`)"
    ),
    "forward-kl": Objective(
        partial(FDivergence, "forward-kl"), "GDC++: KL(p* || q) with its control variate"
    ),
    "forward-kl-adaptive": Objective(
        partial(FDivergence, "forward-kl", adapt_every=20),
        "the same off-policy, from the best guide so far (KL-adaptive DPG)",
    ),
    "reverse-kl": Objective(
        partial(FDivergence, "reverse-kl"), "f-DPG: KL(q || p*) with log Z as the baseline"
    ),
    "jensen-shannon": Objective(
        partial(FDivergence, "jensen-shannon"), "f-DPG: Jensen-Shannon divergence"
    ),
    "total-variation": Objective(partial(FDivergence, "total-variation"), "f-DPG: total variation"),
    "chi2-forward": Objective(
        partial(FDivergence, "chi2-forward"), "f-DPG: chi-square of p* from q"
    ),
    "chi2-reverse": Objective(
        partial(FDivergence, "chi2-reverse"), "f-DPG: chi-square of q from p*"
    ),
    "alpha": Objective(
        partial(FDivergence, "alpha"), "f-DPG: alpha divergence, half way between the two KLs"
    ),
    "best-of-n-distillation": Objective(
        BestOfN_ELBO, "distillation of best-of-16: another target, not the posterior of beta"
    ),
}
"""By name, what makes an objective when called with `num_particles`."""

__all__ = [
    "DIVERGENCES",
    "OBJECTIVES",
    "AnalyticKL_ELBO",
    "BestOfN_ELBO",
    "ContrastiveTwist",
    "Divergence",
    "FDivergence",
    "LeaveOneOut_ELBO",
    "LogVariance",
    "Losses",
    "MultiSample_ELBO",
    "Objective",
    "OnePromptRWS",
    "Proximal_ELBO",
    "ResponseObjective",
    "RewardToGo_ELBO",
    "WakePhi",
    "alpha_divergence",
    "renyi",
    "reweighted_wake_sleep",
    "trace",
    "trace_graph",
]

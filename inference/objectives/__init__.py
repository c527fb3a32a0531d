"""Objectives for `pyro.infer.SVI`, one a file, and their registry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyro.infer import ELBO, TraceGraph_ELBO

from guides import Family
from inference.objectives.analytic_kl import AnalyticKL_ELBO
from inference.objectives.best_of_n import BestOfN_ELBO
from inference.objectives.contrastive_twist import ContrastiveTwist
from inference.objectives.f_divergence import DIVERGENCES, FDivergence
from inference.objectives.gauss_newton import GaussNewton
from inference.objectives.grpo import GRPO
from inference.objectives.leave_one_out import LeaveOneOut_ELBO
from inference.objectives.max_at_k import MaxAtK_ELBO
from inference.objectives.multi_sample import MultiSample_ELBO
from inference.objectives.online_dpo import OnlineDPO
from inference.objectives.proximal import Proximal_ELBO
from inference.objectives.pyro_objectives import renyi, reweighted_wake_sleep, trace
from inference.objectives.reward_to_go import RewardToGo_ELBO
from inference.objectives.self_play import SelfPlay
from inference.objectives.squared_residual import SquaredResidual
from inference.objectives.wake_phi import WakePhi
from model.common.checks import whole_number


@dataclass(frozen=True)
class Objective:
    """Entry of the registry of objectives. Calling the entry with options builds the objective.

    Attributes:
        supports_hard_constraints: True if the objective learns from impossible responses, of log
            likelihood -inf; the others refuse them.
        min_particles: Fewest particles per prompt that give a gradient.
        max_prompts: Largest number of prompts in a step; None for any number.
        guide: Family in `GUIDES` on which comparisons run the objective.
        target: Distribution that the objective reaches if the guide is rich: `posterior`, `best of
            n`, or a name in `inference.targets.fixed_points.TARGETS`.
    """

    make: Callable[..., ELBO]
    summary: str
    supports_hard_constraints: bool = False
    min_particles: int = 2
    max_prompts: int | None = None
    needs_hidden: bool = False
    needs_twist: bool = False
    guide: str = "fine-tuned"
    target: str = "posterior"

    def __call__(self, **options: Any) -> ELBO:
        return self.make(**options)

    def trains(self, family: Family) -> bool:
        """True if the objective can train a guide of this family."""
        has_states = family.has_hidden or not self.needs_hidden
        return family.trains and has_states and (family.has_twist or not self.needs_twist)


def replayed(num_particles: int = 64) -> SquaredResidual:
    """Log-variance off-policy: bolder draws, four clipped steps a batch, as many replayed."""
    replay = whole_number("num_particles", num_particles)
    return SquaredResidual(replay, replay=replay, exploration_kl=0.05, epochs=4, clip=0.2)


def f_divergence(divergence: str, summary: str, **options: Any) -> Objective:
    """Entry for the divergence of that name in `DIVERGENCES`."""
    return Objective(
        partial(FDivergence, divergence, **options),
        summary,
        supports_hard_constraints=DIVERGENCES[divergence].supports_hard_constraints,
        min_particles=1,
    )


OBJECTIVES: dict[str, Objective] = {
    "leave-one-out": Objective(
        LeaveOneOut_ELBO, "RLOO: the ELBO, its baseline the mean of the other particles"
    ),
    "trace": Objective(trace, "Pyro's Trace_ELBO: the ELBO by plain REINFORCE", min_particles=1),
    "trace-graph": Objective(
        partial(trace, make=TraceGraph_ELBO),
        "Pyro's TraceGraph_ELBO: with a single site identical to `trace`",
        min_particles=1,
    ),
    "renyi": Objective(renyi, "Pyro's RenyiELBO at alpha 1/2"),
    "reweighted-wake-sleep": Objective(
        reweighted_wake_sleep, "Pyro's wake-phi; one prompt a step", max_prompts=1
    ),
    "reward-to-go": Objective(
        RewardToGo_ELBO, "the ELBO token by token: each token is credited with what comes after it"
    ),
    "reward-to-go-value": Objective(
        partial(RewardToGo_ELBO, baseline="value"),
        "reward-to-go with a learned value function as the baseline",
        min_particles=1,
        needs_hidden=True,
    ),
    "analytic-kl": Objective(AnalyticKL_ELBO, "the ELBO with its KL summed over the vocabulary"),
    "log-variance": Objective(
        SquaredResidual,
        "VarGrad: half the variance of the log-weights; the gradient of `leave-one-out`",
    ),
    "trajectory-balance": Objective(
        replayed,
        "log-variance off-policy: replay, bolder draws, four steps a batch (GFlowNet fine-tuning)",
        min_particles=1,
    ),
    "gauss-newton": Objective(
        GaussNewton,
        "log-variance over all responses so far, by whole steps; for guides of few parameters",
        guide="lora",
    ),
    "rebel": Objective(
        partial(SquaredResidual, log_z="pairs"),
        "REBEL: squared differences of the log-weights of two responses",
    ),
    "a-star-po": Objective(
        partial(SquaredResidual, log_z="prior"),
        "A*-PO: squared distances of the log-weights from log Z by prior draws",
        min_particles=1,
    ),
    "qrpo": Objective(
        partial(SquaredResidual, log_z="quantile"),
        "QRPO: squared residuals of the reward's quantile, log Z by a formula; not the posterior",
        min_particles=1,
        target="quantile",
    ),
    "proximal": Objective(Proximal_ELBO, "PPO: the ELBO in several clipped steps on each batch"),
    "grpo": Objective(
        GRPO,
        "GRPO: advantages over their deviation, k3 of tokens as a loss; not the posterior",
        target="grpo-token-k3",
    ),
    "dr-grpo": Objective(
        partial(GRPO, scale="none", kl_weight=1.0),
        "Dr. GRPO: advantages in nats, k3 of tokens as a loss; not the posterior",
        target="token-forward-kl",
    ),
    "dapo": Objective(
        partial(GRPO, average="batch", clip=(0.2, 0.28), epochs=4),
        "DAPO: GRPO with a wider clip above, averaged over all tokens; not the posterior",
        target="grpo-token-k3",
    ),
    "gdpo": Objective(
        partial(GRPO, scale="each"),
        "GDPO: GRPO with each reward over its own deviation, before their sum; not the posterior",
        target="gdpo",
    ),
    "gspo": Objective(
        partial(GRPO, ratio="response", average="response", epochs=4),
        "GSPO: GRPO with one ratio a response, averaged over tokens; not the posterior",
        target="grpo-mean-k3",
    ),
    "cispo": Objective(
        partial(GRPO, ratio="constant", epochs=4),
        "CISPO: GRPO with clipped constant weights; not the posterior",
        target="grpo-token-k3",
    ),
    "sapo": Objective(
        partial(GRPO, ratio="soft", average="response", epochs=4),
        "SAPO: GRPO with a soft gate in place of the clip; not the posterior",
        target="grpo-mean-k3",
    ),
    "gmpo": Objective(
        partial(GRPO, ratio="geometric", average="response", clip=0.4, epochs=4),
        "GMPO: GRPO with the geometric mean of clipped ratios; not the posterior",
        target="grpo-mean-k3",
    ),
    "dppo": Objective(
        partial(GRPO, ratio="divergence", epochs=4),
        "DPPO: GRPO with a limit on the change of a probability, not of a ratio; not the posterior",
        target="grpo-token-k3",
    ),
    "rloo": Objective(
        partial(
            GRPO, scale="none", baseline="leave-one-out", kl="reward", estimator="k1", kl_weight=1.0
        ),
        "RLOO by the choices of GRPO: the gradient of `leave-one-out`",
    ),
    "reinforce++": Objective(
        partial(GRPO, scale="batch", baseline="batch", kl="reward", estimator="k1", kl_weight=1.0),
        "REINFORCE++: mean and deviation of all prompts together, the KL in the reward",
    ),
    "self-play": Objective(
        SelfPlay,
        "Nash learning: the reward is the rate of wins against the guide itself, by a judge that a "
        "smaller beta makes more certain; not the posterior",
        target="nash",
    ),
    "online-dpo": Objective(
        OnlineDPO, "online DPO: a judge's preferences between the guide's own draws (OAIF)"
    ),
    "wake-phi": Objective(
        WakePhi,
        "forward KL by self-normalised importance sampling, for each prompt",
        supports_hard_constraints=True,
    ),
    "brain": Objective(
        partial(WakePhi, has_baseline=True),
        "BRAIn: wake-phi with weights less their mean; no noise at the posterior",
        supports_hard_constraints=True,
    ),
    "multi-sample": Objective(
        MultiSample_ELBO, "VIMCO: the importance-weighted bound, for each prompt"
    ),
    "contrastive-twist": Objective(
        ContrastiveTwist,
        "contrastive twist learning, for a guide that has a twist (`twisted`)",
        supports_hard_constraints=True,
        needs_twist=True,
        guide="twisted",
    ),
    "forward-kl": f_divergence("forward-kl", "GDC++: KL(p* || q) with its control variate"),
    "forward-kl-adaptive": f_divergence(
        "forward-kl",
        "KL-adaptive DPG: forward-kl off-policy, from the best guide so far",
        adapt_every=20,
    ),
    "reverse-kl": f_divergence("reverse-kl", "f-DPG: KL(q || p*) with log Z as the baseline"),
    "jensen-shannon": f_divergence("jensen-shannon", "f-DPG: Jensen-Shannon divergence"),
    "total-variation": f_divergence("total-variation", "f-DPG: total variation"),
    "chi2-forward": f_divergence("chi2-forward", "f-DPG: chi-square of p* from q"),
    "chi2-reverse": f_divergence("chi2-reverse", "f-DPG: chi-square of q from p*"),
    "alpha": f_divergence("alpha", "f-DPG: alpha divergence, half way between the two KLs"),
    "max-at-k": Objective(
        MaxAtK_ELBO,
        "PKPO: the ELBO of the best of 3 draws, pass@3 for a reward of 0 and 1; not the posterior",
        min_particles=4,
        target="max-at-k",
    ),
    "best-of-n-distillation": Objective(
        BestOfN_ELBO,
        "distillation of best-of-16: another target, not the posterior of beta",
        supports_hard_constraints=True,
        target="best of n",
    ),
}
"""Objectives by name. Calling an entry with `num_particles` builds the objective."""

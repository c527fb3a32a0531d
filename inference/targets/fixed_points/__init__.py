"""Fixed points: the distribution that a trainer of the literature reaches, if its guide is rich.

    target      q with E[update] = 0, over all responses

The posterior is the fixed point of some trainers. Others have another target, in closed form on a
world whose responses can be listed. So a distance to the posterior splits into a wrong target and
a poor guide. `TARGETS` lists the targets by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inference.targets.fixed_points.gdpo import gdpo
from inference.targets.fixed_points.grpo import grpo, grpo_k3
from inference.targets.fixed_points.max_at_k import max_at_k_target, pass_at_k_target
from inference.targets.fixed_points.nash import nash
from inference.targets.fixed_points.penalties import chi_squared, forward_kl
from inference.targets.fixed_points.problem import NoFixedPointError, Problem, posterior
from inference.targets.fixed_points.ranks import best_of_n_target, quantile, soft_best_of_n
from inference.targets.fixed_points.squared_residual import (
    length_normalised,
    mean_mirror_descent,
    squared_residual,
)
from inference.targets.fixed_points.thresholds import filtering, mode_anchored
from inference.targets.fixed_points.token_kl import (
    grpo_mean_k3,
    grpo_token_k3,
    grpo_token_kl,
    token_forward_kl,
    token_reverse_kl,
)

__all__ = ["TARGETS", "NoFixedPointError", "Problem", "Target"]


@dataclass(frozen=True)
class Target:
    """A trainer's target by name.

    Attributes:
        function: function of a `Problem`, and of options, that returns log q, `[S, N]`, nats.
        summary: the trainers that reach the target.
        has_groups: True if the target depends on the number of responses in a group, `group_size`.
    """

    function: Callable[..., Tensor]
    summary: str
    has_groups: bool = False

    def __call__(self, problem: Problem, **options: Any) -> Tensor:
        """log q of all responses, `[S, N]`, nats, float64."""
        return self.function(problem, **options)


TARGETS = {
    "posterior": Target(posterior, "RLOO with the KL in the reward, exact mirror descent, DPO"),
    "grpo": Target(
        grpo, "GRPO, advantages over their deviation, exact KL penalty", has_groups=True
    ),
    "grpo-k3": Target(
        grpo_k3, "GRPO, advantages over their deviation, k3 of the response", has_groups=True
    ),
    "grpo-token-k3": Target(
        grpo_token_k3, "GRPO, advantages over their deviation, k3 of tokens", has_groups=True
    ),
    "grpo-token-kl": Target(
        grpo_token_kl, "GRPO, an unbiased gradient of the KL of tokens", has_groups=True
    ),
    "grpo-mean-k3": Target(
        grpo_mean_k3, "GRPO as first published, GSPO: k3 of tokens, averaged", has_groups=True
    ),
    "gdpo": Target(gdpo, "GDPO, each reward over its own deviation, k3 of tokens"),
    "forward-kl": Target(forward_kl, "reward with a penalty of KL(p0 || q)"),
    "token-forward-kl": Target(token_forward_kl, "Dr. GRPO with k3 of tokens", has_groups=True),
    "token-reverse-kl": Target(
        token_reverse_kl, "Dr. GRPO, an unbiased gradient of tokens' KL", has_groups=True
    ),
    "chi-squared": Target(chi_squared, "chi-PO, a penalty of KL and chi-squared"),
    "mean-mirror-descent": Target(mean_mirror_descent, "squared residuals with the mean reward"),
    "squared-residual": Target(squared_residual, "squared residuals with `log_z` for log Z"),
    "length-normalised": Target(length_normalised, "FlowRL, balance per token"),
    "mode-anchored": Target(mode_anchored, "MARA, equal mass above `threshold`"),
    "nash": Target(nash, "Nash learning, online IPO: the rate of wins against the target itself"),
    "best-of-n": Target(best_of_n_target, "distillation of best of n"),
    "soft-best-of-n": Target(soft_best_of_n, "distillation of soft best of n"),
    "filtering": Target(filtering, "rejection fine-tuning, by `threshold`"),
    "max-at-k": Target(max_at_k_target, "training for the best of `k` draws, PKPO"),
    "pass-at-k": Target(pass_at_k_target, "training for pass@`k`, by `threshold`"),
    "quantile": Target(quantile, "QRPO, the posterior of the reward's quantile"),
}
"""Targets of trainers by name."""

"""Proximal: several steps on one batch, in a trust region around the guide that drew it (PPO).

    minimise  - 1/K sum_k min(rho_k A_k, clip(rho_k, 1 - eps, 1 + eps) A_k)
    rho       = q(x) / a(x),   x ~ a, the guide as it drew the batch;   A = log w - a baseline

The clip removes the gradient of responses whose ratio has reached the limit (Schulman et al. 2017,
arXiv 1707.06347, equation 7). PPO for language models has the ratio of a token, which is no
importance weight, and leaves the log-ratio of a in the reward. Here the ratio is of the response
and the entropy in log w is of the current q: without the clip, the gradient is an unbiased estimate
of the gradient of the ELBO at any q that does not depend on the batch.
"""

import torch
from torch import Tensor

from inference.objectives.leave_one_out import BASELINE
from inference.objectives.parts.engine import Engine
from inference.objectives.parts.repeated_batch import RepeatedBatchObjective
from inference.objectives.parts.response_objective import Losses
from inference.programs import Program
from model import Prompts
from model.common.checks import positive


class Proximal_ELBO(RepeatedBatchObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO by PPO's clipped surrogate. Refuses hard constraints.

    Unbiased in the first step on a batch; later biased by the clip, and as q is fitted to the
    batch. The loss is of the batch under the current guide.

    Args:
        num_particles: K, at least 2.
        epochs: Number of steps on each batch.
        clip: eps, largest distance of the ratio from 1; None for no clip.
        engine: Other program that draws the batches, see `engine.py`; None for the guide. Without
            a clip, the first step on a batch of an engine is unbiased too.
    """

    ascends_elbo = True
    min_particles, why_particles = 2, BASELINE

    def __init__(
        self,
        num_particles: int = 64,
        *,
        epochs: int = 4,
        clip: float | None = 0.2,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(num_particles, epochs, engine)
        self.clip = None if clip is None else positive("clip", clip, why="or None for no clip")

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        batch, distribution = self.next_batch(model, guide, prompts)
        log_guide = distribution.log_prob(batch.response)
        log_weight = batch.log_joint - log_guide.detach()
        ratio = batch.log_ratio(log_guide).exp()  # [K, N], with gradient
        # log w is infinite, and weighs nothing, where an engine drew what the guide cannot draw
        bounded = log_weight.masked_fill(ratio.detach() == 0, 0.0)
        advantage = self._advantage(bounded, ratio.detach())
        gain = ratio * advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        share = ratio.detach() / len(ratio)
        loss, surrogate = -(share * bounded).sum(0).sum(), -gain.mean(0).sum()
        draws = (batch.response, log_guide, log_weight, batch.log_likelihood)
        return Losses(loss, surrogate, *draws, share)

    def _advantage(self, log_weight: Tensor, ratio: Tensor) -> Tensor:
        """log w minus the others' mean under q, weighted by their ratios, `[K, N]`."""
        itself = torch.eye(len(ratio), dtype=torch.bool, device=ratio.device)[..., None]
        others = ratio.expand(len(ratio), *ratio.shape).masked_fill(itself, 0.0)  # [K, K, N]
        size = others.sum(1).clamp(min=torch.finfo(ratio.dtype).tiny)  # a mean of nothing is 0
        return log_weight - (others * log_weight).sum(1) / size

"""Proximal: several steps on one batch, in a trust region around the guide that drew it (PPO).

    minimise  - 1/K sum_k min(rho_k A_k, clip(rho_k, 1 - eps, 1 + eps) A_k)
    rho       = q(x) / a(x),   x ~ a, the guide as it drew the batch;   A = log w - a baseline

The clip removes the gradient of responses whose ratio has reached the limit (Schulman et al. 2017,
arXiv 1707.06347, equation 7). PPO for language models has the ratio of a token, which is no
importance weight, and leaves the log-ratio of a in the reward. Here the ratio is of the response
and the entropy in log w is of the current q: without the clip, the gradient is an unbiased estimate
of the gradient of the ELBO at any q that does not depend on the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.objectives.leave_one_out import BASELINE
from inference.objectives.response_objective import Losses, ResponseObjective, part_of
from inference.programs import Program
from model import Prompts
from model.common.checks import positive, whole_number

_TENSORS = ("response", "log_prior", "log_likelihood", "log_proposal")


@dataclass
class _Batch:
    """Responses `[K, N, T]`, three log densities `[K, N]`, nats, and the number of steps taken."""

    prompts: Prompts
    response: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    log_proposal: Tensor
    num_steps: int = 0


class Proximal_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO by PPO's clipped surrogate. Refuses hard constraints.

    Unbiased in the first step on a batch; later biased by the clip, and as q is fitted to the
    batch. Each call is one step. A call draws a new batch after `epochs` steps, and otherwise
    continues with the prompts of the batch and ignores its argument. The loss is of the batch
    under the current guide.

    Args:
        num_particles: K, at least 2.
        epochs: Number of steps on each batch.
        clip: eps, largest distance of the ratio from 1; None for no clip.
    """

    min_particles, why_particles = 2, BASELINE

    def __init__(
        self, num_particles: int = 64, *, epochs: int = 4, clip: float | None = 0.2
    ) -> None:
        super().__init__(num_particles)
        self.epochs = whole_number("epochs", epochs, why="steps on each batch")
        self.clip = None if clip is None else positive("clip", clip, why="or None for no clip")
        self._batch: _Batch | None = None

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        batch = self._batch
        if batch is None or batch.num_steps == self.epochs:
            distribution, response = self.draw(guide, prompts)
            log_guide = distribution.log_prob(response)
            joint = self.score(model, prompts, response)
            self._batch = batch = _Batch(prompts, response, *joint, log_guide.detach().double())
        else:
            distribution = self.distribution(guide, batch.prompts, batch.response)
            log_guide = distribution.log_prob(batch.response)
        batch.num_steps += 1
        log_weight = batch.log_prior + batch.log_likelihood - log_guide.detach()
        ratio = (log_guide - batch.log_proposal).exp()  # [K, N], with gradient
        advantage = self._advantage(log_weight, ratio.detach())
        gain = ratio * advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        elbo = ratio.detach() * log_weight  # [K, N]
        log_likelihood = (ratio.detach() * batch.log_likelihood).mean()
        numbers = (-gain.mean(0).sum(), elbo.mean(), log_likelihood)
        return Losses(-elbo.mean(0).sum(), *numbers, batch.response, log_guide, log_weight)

    def _losses(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Losses:
        losses = super()._losses(model, guide, args, kwargs)
        assert self.draws is not None
        assert self._batch is not None
        self.draws = self.draws._replace(prompts=self._batch.prompts)
        return losses

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Loss on a new batch for the given prompts; the current batch stays as it is."""
        batch, self._batch = self._batch, None
        try:
            return super().loss(model, guide, *args, **kwargs)
        finally:
            self._batch = batch

    def _advantage(self, log_weight: Tensor, ratio: Tensor) -> Tensor:
        """log w minus the others' mean under q, weighted by their ratios, `[K, N]`."""
        itself = torch.eye(len(ratio), dtype=torch.bool, device=ratio.device)[..., None]
        others = ratio.expand(len(ratio), *ratio.shape).masked_fill(itself, 0.0)  # [K, K, N]
        return log_weight - (others * log_weight).sum(1) / others.sum(1)

    def get_state(self) -> dict[str, Tensor]:
        batch = self._batch
        if batch is None:
            return {}
        texts = {f"text/{n}/{text}": torch.zeros(0) for n, text in enumerate(batch.prompts.texts)}
        prompts = {"ids": batch.prompts.ids, "mask": batch.prompts.mask}
        tensors = {name: getattr(batch, name) for name in _TENSORS}
        return texts | prompts | {"uses": torch.tensor(batch.num_steps)} | tensors

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._batch = None
        if state:
            texts = dict(name.split("/", 1) for name in part_of(state, "text/"))
            ordered = tuple(texts[str(n)] for n in range(len(texts)))
            prompts = Prompts(ordered, state["ids"], state["mask"])
            tensors = {name: state[name] for name in _TENSORS}
            self._batch = _Batch(prompts, num_steps=int(state["uses"].item()), **tensors)

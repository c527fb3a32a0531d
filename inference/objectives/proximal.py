"""Proximal: several steps on one batch of responses, inside a trust region around the guide that drew them (PPO).

    minimise  - 1/K sum_k min(rho_k A_k, clip(rho_k, 1 - eps, 1 + eps) A_k),    rho = q(x) / a(x),   x ~ a

a is the guide as it was when it drew the batch; A is log w minus a baseline, w = p0(x) exp(r(x)/beta) / q(x). The clip takes
the gradient from responses whose ratio has gone as far as it may (Schulman et al. 2017, arXiv 1707.06347, equation 7).

Two things differ from PPO as it is run on language models. The ratio is that of the whole response, an importance weight; that
of a token alone is not. And the entropy in log w is that of q as it is now, where PPO leaves in the reward the log-ratio of the
guide that drew: unclipped, the gradient is an unbiased estimate of the ELBO's at any q that does not depend on the batch.
"""

from __future__ import annotations

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

_SCORED = ("response", "log_prior", "log_likelihood", "log_proposal")


@dataclass
class _Batch:
    """Responses `[K, N, T]` to some prompts; log p0, r/beta and log a `[K, N]`; and the steps they were used in."""

    prompts: Prompts
    response: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    log_proposal: Tensor
    uses: int = 0


class Proximal_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO by PPO's clipped surrogate. Refuses evidence of -inf.

    Unbiased in the first step on a batch; after that biased by the clip, and by q having been fitted to the batch.

    Every call is one step on the batch at hand, which it draws anew every `epochs` calls; in between it goes on with the
    prompts of the batch, whatever prompts it is given. The loss is that of the batch under the guide as it is now.

    Args:
        num_particles: K, at least 2, responses a batch for each prompt.
        epochs: steps on each batch.
        clip: eps, how far the ratio may go from 1; None for no clip.
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
        if batch is None or batch.uses == self.epochs:
            distribution, response = self.draw(guide, prompts)
            log_guide = distribution.log_prob(response)
            joint = self.score(model, prompts, response)
            self._batch = batch = _Batch(prompts, response, *joint, log_guide.detach().double())
        else:
            log_guide = self.distribution(guide, batch.prompts, batch.response).log_prob(
                batch.response
            )
        batch.uses += 1
        log_weight = batch.log_prior + batch.log_likelihood - log_guide.detach()
        ratio = (log_guide - batch.log_proposal).exp()  # [K, N], with gradient
        advantage = self._advantage(log_weight, ratio.detach())
        gain = ratio * advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        elbo = ratio.detach() * log_weight  # [K, N]
        log_likelihood = (ratio.detach() * batch.log_likelihood).mean()
        return Losses(-elbo.mean(0).sum(), -gain.mean(0).sum(), elbo.mean(), log_likelihood)

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss on a batch of its own, for the prompts that are given; the one at hand stays as it was."""
        batch, self._batch = self._batch, None
        try:
            return super().loss(model, guide, *args, **kwargs)
        finally:
            self._batch = batch

    def _advantage(self, log_weight: Tensor, ratio: Tensor) -> Tensor:
        """log w minus its mean under q over the other particles, `[K, N]`; each ratio weighs its particle."""
        itself = torch.eye(len(ratio), dtype=torch.bool, device=ratio.device)[..., None]
        others = ratio.expand(len(ratio), *ratio.shape).masked_fill(itself, 0.0)  # [K, K, N]
        return log_weight - (others * log_weight).sum(1) / others.sum(1)

    def get_state(self) -> dict[str, Tensor]:
        batch = self._batch
        if batch is None:
            return {}
        texts = {f"text/{n}/{text}": torch.zeros(0) for n, text in enumerate(batch.prompts.texts)}
        tensors = {
            "ids": batch.prompts.ids,
            "mask": batch.prompts.mask,
            "uses": torch.tensor(batch.uses),
        }
        return texts | tensors | {name: getattr(batch, name) for name in _SCORED}

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._batch = None
        if state:
            texts = dict(name.split("/", 1) for name in part_of(state, "text/"))
            prompts = Prompts(
                tuple(texts[str(n)] for n in range(len(texts))), state["ids"], state["mask"]
            )
            scored = {name: state[name] for name in _SCORED}
            self._batch = _Batch(prompts, uses=int(state["uses"].item()), **scored)

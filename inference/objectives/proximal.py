"""Proximal: several steps on one batch of responses, inside a trust region around the guide that drew them (PPO).

    minimise  - 1/K sum_k min(rho_k A_k, clip(rho_k, 1 - eps, 1 + eps) A_k),    rho = q(x) / a(x),   x ~ a

a is the guide as it was when it drew the batch; A is log w minus a baseline, w = p0(x) exp(r(x)/beta) / q(x). The clip takes
the gradient from responses whose ratio has gone as far as it may (Schulman et al. 2017, arXiv 1707.06347, equation 7).

Two things differ from PPO as it is run on language models. The ratio is that of the whole response, an importance weight; that
of a token alone is not. And the entropy in log w is that of q as it is now, where PPO leaves in the reward the log-ratio of the
guide that drew: unclipped, the gradient here is the ELBO's at q, whatever a is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.density import Program
from inference.objectives.response_objective import Losses, ResponseObjective, part_of
from model import Prompts


@dataclass
class _Batch:
    """Responses `[K, N, T]` to some prompts, log-joint and log a `[K, N]`, and the steps they were used in."""

    prompts: Prompts
    response: Tensor
    log_joint: Tensor
    log_proposal: Tensor
    uses: int = 0


class Proximal_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO by PPO's clipped surrogate. Biased by the clip; without it unbiased. Refuses evidence of -inf.

    Every call is one step on the batch at hand, which it draws anew every `epochs` calls; in between it goes on with the
    prompts of the batch, whatever prompts it is given. The loss is that of the batch under the guide as it is now.

    Args:
        num_particles: K, at least 2, responses a batch for each prompt.
        epochs: steps on each batch.
        clip: eps, how far the ratio may go from 1; None for no clip.
    """

    def __init__(self, num_particles: int = 64, *, epochs: int = 4, clip: float | None = 0.2) -> None:
        if num_particles < 2:
            raise ValueError(f"num_particles is {num_particles}, expected at least 2: the baseline is the mean of the others")
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}, expected at least 1")
        super().__init__(num_particles)
        self.epochs = epochs
        self.clip = clip
        self._batch: _Batch | None = None

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        batch = self._batch
        if batch is None or batch.uses == self.epochs:
            distribution, response = self.draw(guide, prompts)
            log_guide = distribution.log_prob(response)
            log_joint = self.score(model, prompts, response).log_joint
            self._batch = batch = _Batch(prompts, response, log_joint, log_guide.detach().double())
        else:
            log_guide = self.distribution(guide, batch.prompts, batch.response).log_prob(batch.response)
        batch.uses += 1
        log_weight = batch.log_joint - log_guide.detach()
        ratio = (log_guide - batch.log_proposal).exp()  # [K, N], with gradient
        advantage = self._advantage(log_weight, ratio.detach())
        gain = ratio * advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        elbo = (ratio.detach() * log_weight).mean(0).sum()
        return Losses(-elbo, -gain.mean(0).sum(), elbo)

    def _advantage(self, log_weight: Tensor, ratio: Tensor) -> Tensor:
        """log w minus its mean under q over the other particles, `[K, N]`; each ratio weighs its particle."""
        others = ratio.sum(0) - ratio
        return log_weight - ((ratio * log_weight).sum(0) - ratio * log_weight) / others

    def get_state(self) -> dict[str, Tensor]:
        batch = self._batch
        if batch is None:
            return {}
        texts = {f"text/{n}/{text}": torch.zeros(0) for n, text in enumerate(batch.prompts.texts)}
        tensors = {"ids": batch.prompts.ids, "mask": batch.prompts.mask, "uses": torch.tensor(batch.uses)}
        scored = {"response": batch.response, "log_joint": batch.log_joint, "log_proposal": batch.log_proposal}
        return texts | tensors | scored

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._batch = None
        if state:
            texts = dict(name.split("/", 1) for name in part_of(state, "text/"))
            prompts = Prompts(tuple(texts[str(n)] for n in range(len(texts))), state["ids"], state["mask"])
            scored = (state["response"], state["log_joint"], state["log_proposal"])
            self._batch = _Batch(prompts, *scored, uses=int(state["uses"].item()))

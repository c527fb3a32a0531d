"""Several steps on one batch of responses, which is drawn and scored once."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference.objectives.parts.engine import Engine, EngineDraws, checked_draws
from inference.objectives.parts.off_policy import tempered
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.objectives.parts.states import part_of, with_prefix
from inference.programs import Joint, Program, autoregressive, sample_and_log_prob
from model import Prompts
from model.common import ranks
from model.common.checks import function, whole_number

_TENSORS = ("response", "log_prior", "log_likelihood", "log_proposal", "log_start")


@dataclass
class DrawnBatch:
    """Responses `[K, N, T]`, three log densities `[K, N]`, nats, and the number of steps taken.

    `log_proposal` is the log density of the distribution that the responses were drawn from; None
    before the first step, if that distribution is the guide. `log_start` is log q in the first
    step, `[K, N]`, nats; None if no step needed it. `per_token` holds tensors by name, mostly
    `[K, N, T]`, that an objective computes once for the batch.
    """

    prompts: Prompts
    response: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    log_proposal: Tensor | None = None
    log_start: Tensor | None = None
    num_steps: int = 0
    per_token: dict[str, Tensor] = field(default_factory=dict)

    @property
    def log_joint(self) -> Tensor:
        """log p0 + log likelihood, `[K, N]`, nats."""
        return self.log_prior + self.log_likelihood

    def log_ratio(self, log_guide: Tensor) -> Tensor:
        """log q - log a for the proposal a, `[K, N]`, nats, given log q of the batch."""
        if self.log_proposal is None:
            self.log_proposal = log_guide.detach().double()
        return log_guide - self.log_proposal

    def change(self, log_guide: Tensor) -> Tensor:
        """log q since the first step on the batch, `[K, N]`, nats, given log q of the batch."""
        if self.log_start is None:
            self.log_start = log_guide.detach().double()
        return log_guide - self.log_start


class RepeatedBatchObjective(ResponseObjective, ABC):
    """An objective that takes `epochs` steps on each batch, which the guide or an engine draws.

    Each call is one step. A call draws a new batch after `epochs` steps. Other calls continue with
    the prompts of the batch, and ignore the prompts that are passed.
    """

    def __init__(self, num_particles: int, epochs: int, engine: Engine | None = None) -> None:
        super().__init__(num_particles)
        self.engine = None if engine is None else function("engine", engine, why="see `Engine`")
        self.epochs = whole_number("epochs", epochs, why="steps on each batch")
        self._batch: DrawnBatch | None = None

    @property
    def reuses_draws(self) -> bool:
        return self._batch is not None and self._batch.num_steps < self.epochs

    def next_batch(
        self, model: Program, guide: Program, prompts: Prompts, *, temperature: float = 1.0
    ) -> tuple[DrawnBatch, TorchDistribution]:
        """Batch of this step, whose `num_steps` is 1 if the batch is new, and the guide's q.

        In drawing, the guide's logits are divided by a temperature.
        """
        batch = self._batch
        if batch is None or not self.reuses_draws:
            log_proposal = tokens = None  # the guide's own, which this step scores
            if self.engine is not None:
                of_engine = partial(self._draws_of, self.engine, prompts)
                distribution, response, tokens = self.draw_by(guide, prompts, of_engine)
                log_proposal = tokens.sum(-1)
            elif temperature == 1.0:
                distribution, response = self.draw(guide, prompts)
            else:
                num = self.num_particles
                distribution, response, log_proposal = self.draw_by(
                    guide, prompts, lambda q: sample_and_log_prob(tempered(q, temperature), num)
                )
            joint, per_token = self.score_batch(model, prompts, response)
            if tokens is not None:
                per_token["proposal"] = tokens
            self._batch = batch = DrawnBatch(
                prompts, response, *joint, log_proposal, per_token=per_token
            )
        else:
            distribution = self.distribution(guide, batch.prompts, batch.response)
        batch.num_steps += 1
        return batch, distribution

    def score_batch(
        self, model: Program, prompts: Prompts, response: Tensor
    ) -> tuple[Joint, dict[str, Tensor]]:
        """Score a new batch; with tensors `[K, N, T]` by name that its steps need."""
        return self.score(model, prompts, response), {}

    def _draws_of(
        self, engine: Engine, prompts: Prompts, distribution: TorchDistribution
    ) -> EngineDraws:
        """Responses of an engine with the log density of each token, checked, on every rank."""
        q, num = autoregressive(distribution), self.num_particles
        drawn = ranks.of_first(engine(prompts, num) if ranks.is_first() else None)
        return checked_draws(drawn, q, prompts, num)

    def _losses(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Losses:
        losses = super()._losses(model, guide, args, kwargs)
        assert self._batch is not None
        self.draws = [draws._replace(prompts=self._batch.prompts) for draws in self.draws or ()]
        return losses

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Loss on a new batch for the given prompts; the current batch stays as it is."""
        batch, self._batch = self._batch, None
        try:
            return super().loss(model, guide, *args, **kwargs)
        finally:
            self._batch = batch

    def get_state(self) -> dict[str, Tensor]:
        """The current batch, if a later step continues with the batch."""
        batch = self._batch
        if batch is None or not self.reuses_draws:
            return {}
        values = {name: getattr(batch, name) for name in _TENSORS}
        state = {name: value for name, value in values.items() if value is not None}
        state |= with_prefix("prompts/", batch.prompts.get_state())
        state |= with_prefix("per_token/", batch.per_token)
        return with_prefix("batch/", state | {"num_steps": torch.tensor(batch.num_steps)})

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._batch = None
        if state := part_of(state, "batch/"):
            prompts = Prompts.from_state(part_of(state, "prompts/"))
            tensors: dict[str, Any] = {name: state.get(name) for name in _TENSORS}
            tensors["per_token"] = part_of(state, "per_token/")
            self._batch = DrawnBatch(prompts, num_steps=int(state["num_steps"].item()), **tensors)

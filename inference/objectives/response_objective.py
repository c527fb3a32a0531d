"""What the objectives for one site have in common: draw responses, score them under both programs, step on a surrogate.

    the objective says        a loss, and a surrogate whose gradient is the estimate
    this file does the rest   so that it is a `pyro.infer` ELBO, for `pyro.infer.SVI` as for `inference.fit`

They see more of the site `response` than Pyro's own objectives do, such as its tokens, and in turn ask for a model and a guide
that have no other site. They train the guide alone: the model's parameters are taken as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from inference.programs import Joint, Program, autoregressive, log_factors, trace_at
from inference.response_site import (
    PAIRED,
    AtResponse,
    SameResponses,
    check_response_site,
    is_sample,
)
from model import HardConstraintSupport, Prompts, ResponseDistribution
from model.common.checks import whole_number

_Draw = Callable[[TorchDistribution], Tensor]


class Losses(NamedTuple):
    """What an objective makes of one batch of responses.

    Attributes:
        loss: scalar without gradient, summed over prompts.
        surrogate: scalar whose gradient is descended.
        elbo: scalar, an estimate of the guide's ELBO, nats by the prompt, whatever the loss is.
        log_likelihood: scalar, an estimate of E_q[r]/beta, nats by the prompt.
    """

    loss: Tensor
    surrogate: Tensor
    elbo: Tensor
    log_likelihood: Tensor


class ResponseObjective(ELBO):
    """An objective over the one site `response`. A new one implements `losses`.

    Args:
        num_particles: K, responses drawn a step for each prompt.

    Raises:
        ValueError: for fewer particles than `min_particles`.

    Attributes:
        metrics: `elbo` and `log_likelihood` of the guide as the last step estimates them, nats by the prompt, whatever it is that
            the objective descends; and what else it has to say.
        step_count: steps taken.
    """

    supports_hard_constraints: ClassVar[bool] = False
    """Whether impossible responses (evidence -inf) are borne; else the model refuses them by name."""

    min_particles: ClassVar[int] = 1
    """Fewest particles of which the gradient says anything."""

    why_particles: ClassVar[str] = ""
    """Why fewer are refused."""

    def __init__(self, num_particles: int = 64) -> None:
        num_particles = whole_number(
            "num_particles", num_particles, at_least=self.min_particles, why=self.why_particles
        )
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
        self.metrics: dict[str, float] = {}
        self.step_count = 0

    @abstractmethod
    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        """One batch: draw, score, and say what to descend."""

    def get_state(self) -> dict[str, Tensor]:
        """What a later step depends on, by name, for checkpoints; Pyro's parameters aside."""
        return {}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `get_state` gave."""

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Adds the gradient of the loss to the parameters' `.grad`. Returns the loss, summed over prompts."""
        loss, surrogate, *_ = self._losses(model, guide, args, kwargs)
        if surrogate.requires_grad:
            surrogate.backward(retain_graph=self.retain_graph)
        self.step_count += 1
        return loss.item()

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss alone; whatever the objective remembers from step to step stays as it was."""
        state = {name: tensor.clone() for name, tensor in self.get_state().items()}
        metrics = dict(self.metrics)
        try:
            with torch.no_grad():
                return self._losses(model, guide, args, kwargs).loss.item()
        finally:
            self.set_state(state)
            self.metrics = metrics

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss, with the gradient of the surrogate."""
        loss, surrogate, *_ = self._losses(model, guide, args, kwargs)
        return loss + surrogate - surrogate.detach()

    def _losses(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Losses:
        prompts = only_argument(type(self).__name__, args, kwargs)
        with SameResponses():
            losses = self.losses(model, guide, prompts)
        self.metrics |= {"elbo": losses.elbo.item(), "log_likelihood": losses.log_likelihood.item()}
        return losses

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        raise NotImplementedError(
            "Pyro's objectives run model and guide in pairs of traces; those over one site do not"
        )

    def draw(
        self, guide: Program, prompts: Prompts, *, temperature: float = 1.0
    ) -> tuple[TorchDistribution, Tensor]:
        """Run the guide. Returns its distribution at the site, batch shape `[N]`, and K draws from it, `[K, N, T]`.

        Args:
            guide: a Pyro program with the site `response` and no other.
            prompts: N prompts.
            temperature: draw from the guide with its logits divided by this number as well; the distribution returned is the
                guide's own all the same.
        """
        shape = (self.num_particles,)
        if temperature == 1.0:
            return self._run(guide, prompts, lambda distribution: distribution.sample(shape))
        return self._run(
            guide, prompts, lambda distribution: tempered(distribution, temperature).sample(shape)
        )

    def distribution(self, guide: Program, prompts: Prompts, response: Tensor) -> TorchDistribution:
        """Run the guide with `response` `[..., N, T]`, drawn elsewhere, at its site. Returns its distribution there."""
        return self._run(guide, prompts, lambda _: response)[0]

    def _run(
        self, guide: Program, prompts: Prompts, draw: _Draw
    ) -> tuple[TorchDistribution, Tensor]:
        at_response = AtResponse(prompts, draw)
        with at_response:
            trace = poutine.trace(guide).get_trace(prompts)
        others = [
            name for name, site in trace.nodes.items() if is_sample(site) and name != "response"
        ]
        if at_response.distribution is None or others:
            raise ValueError(
                f"{type(self).__name__} needs a guide with the site 'response' and no other, got {others or 'none'}. "
                f"{PAIRED} take any guide."
            )
        site = check_response_site(trace, prompts, "guide")
        return site["fn"], site["value"]

    def score(self, model: Program, prompts: Prompts, response: Tensor) -> Joint:
        """log p0 and r/beta of the model at `response`, `[..., N]` each, nats, float64, without gradient."""
        prior, log_likelihood = self.read_model(model, prompts, response)
        with torch.no_grad():
            return Joint(prior.log_prob(response).double(), log_likelihood)

    def read_model(
        self, model: Program, prompts: Prompts, response: Tensor
    ) -> tuple[TorchDistribution, Tensor]:
        """The prior, which has scored nothing yet, and r/beta at `response`, `[..., N]`, nats, float64, without gradient."""
        with (
            torch.no_grad(),
            HardConstraintSupport() if self.supports_hard_constraints else nullcontext(),
        ):
            trace = trace_at(model, prompts, response, role="model")
        return trace.nodes["response"]["fn"], log_factors(trace)


def only_argument(name: str, args: tuple, kwargs: dict) -> Prompts:
    """The prompts, the one argument of model and guide, by position or by keyword.

    Raises:
        TypeError: if there are none or more arguments.
    """
    every = [*args, *kwargs.values()]
    if len(every) != 1:
        raise TypeError(
            f"{name} got {len(args)} arguments and the keywords {sorted(kwargs)} for model and guide, expected one, the "
            f"prompts. Bind the others beforehand, with `functools.partial`; {PAIRED} pass any on"
        )
    return every[0]


def tempered(distribution: TorchDistribution, temperature: float) -> ResponseDistribution:
    """An autoregressive distribution with its logits divided by one more number."""
    return autoregressive(distribution).at_temperature(distribution.temperature * temperature)


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }

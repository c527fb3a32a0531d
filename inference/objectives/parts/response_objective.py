"""The base of all objectives over the one site `response`: draw, score, descend a surrogate.

The objectives see the tokens of a response, which Pyro's own do not, and need a model and a guide
without other sites. They train the guide alone: the model's parameters are constants. For all of
them K is `num_particles`, N the number of prompts, T the longest response, and

    w = p0(x) likelihood(x) / q(x)
"""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from torch import Tensor

from inference.estimate import expectation
from inference.objectives.parts.draws import Draws
from inference.objectives.parts.same_model import SameModel
from inference.objectives.parts.surrogate_loss import SurrogateLoss, only_argument, read
from inference.programs import Joint, Program, factors_of, trace_at
from inference.response_site import (
    PAIRED,
    ResponseValue,
    SameResponses,
    check_response_site,
    is_sample,
)
from model import HardConstraintSupport, Prompts
from model.common.checks import instance, whole_number


class Losses(NamedTuple):
    """Loss and surrogate of one batch of responses, and the responses.

    Attributes:
        loss: Without gradient, summed over prompts.
        surrogate: Its gradient is descended.
        response: Responses of the guide, `[K, N, T]`, on which `fit` measures the step's size.
        log_guide: log q of these responses, `[K, N]`, nats.
        log_weight: log of the target over q at these responses, `[K, N]`, nats.
        log_likelihood: log likelihood of these responses, `[K, N]`, nats.
        share: Weight of each response in a mean under q, `[K, N]`; None for 1/K each.
        elbo: Estimate of the guide's ELBO, mean over prompts, nats; None for the mean of
            `log_weight` under q.
    """

    loss: Tensor
    surrogate: Tensor
    response: Tensor
    log_guide: Tensor
    log_weight: Tensor
    log_likelihood: Tensor
    share: Tensor | None = None
    elbo: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `[K, N]` values under q, over prompts."""
        return values.mean() if self.share is None else expectation(self.share, values).mean()


class ResponseObjective(SurrogateLoss):
    """An objective over the one site `response`. A new objective implements `losses`.

        class ForwardKL(ResponseObjective):
            def losses(self, model, guide, prompts):
                distribution, response = self.draw(guide, prompts)  # [K, N, T]
                log_guide = distribution.log_prob(response)  # [K, N], with gradient
                joint = self.score(model, prompts, response)
                log_weight = joint.log_joint - log_guide.detach()
                loss = -(log_weight.softmax(0) * log_guide).sum()
                draws = (response, log_guide, log_weight, joint.log_likelihood)
                return Losses(loss.detach(), loss, *draws)

    Args:
        num_particles: K, number of responses drawn for each prompt in a step.

    Attributes:
        metrics: `elbo` and `log_likelihood` of the last step, means under q; and numbers of the
            objective's own.
        step_count: Number of steps taken.
        draws: Draws of the last step; None before the first step.
    """

    supports_hard_constraints: bool = False
    """True if the objective learns from impossible responses (log-likelihood -inf), which the model
    otherwise refuses by name."""

    min_particles: ClassVar[int] = 1
    """Fewest particles that give a gradient."""

    takes_whole_steps: ClassVar[bool] = False
    """True if `.grad` is minus a whole step, which `WholeSteps` takes by default."""

    why_particles: ClassVar[str] = ""
    """Reason to refuse fewer particles, for the error."""

    def __init__(self, num_particles: int = 64) -> None:
        num_particles = whole_number(
            "num_particles", num_particles, at_least=self.min_particles, why=self.why_particles
        )
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
        self.metrics: dict[str, Any] = {}
        self.step_count = 0
        self.draws: list[Draws] | None = None

    @property
    def reuses_draws(self) -> bool:
        """True if the next step works on the responses of an earlier step."""
        return False

    @abstractmethod
    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        """Draw and score one batch, and return the loss and the surrogate."""

    def get_state(self) -> dict[str, Tensor]:
        """Tensors by name that later steps depend on, for checkpoints; not the parameters."""
        return {}

    def copy_state(self) -> dict[str, Tensor]:
        """Result of `get_state` that later steps leave as it is."""
        return {name: tensor.clone() for name, tensor in self.get_state().items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Restore the result of `get_state`."""

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self.step_count += 1
        return loss

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Loss alone; state and metrics of the objective stay as they are."""
        state = self.copy_state()
        metrics, draws, is_bound = dict(self.metrics), self.draws, self in _MODELS
        try:
            with torch.no_grad():
                return self._losses(model, guide, args, kwargs).loss.item()
        finally:
            self.set_state(state)
            self.metrics, self.draws = metrics, draws
            if not is_bound:
                _MODELS.pop(self, None)

    def _losses(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Losses:
        prompts = only_argument(type(self).__name__, args, kwargs)
        self._check_model(model)
        with SameResponses():
            losses = check_losses(type(self).__name__, self.losses(model, guide, prompts))
        log_guide, log_weight = losses.log_guide.detach(), losses.log_weight.detach()
        elbo = losses.mean(log_weight) if losses.elbo is None else losses.elbo
        numbers = {"elbo": elbo, "log_likelihood": losses.mean(losses.log_likelihood)}
        self.metrics |= {name: number.detach().double() for name, number in numbers.items()}
        self.metrics = read(self.metrics) if self.reads_loss else self.metrics
        values = {"response": losses.response}
        share = None if losses.share is None else losses.share.detach()
        log_guides = {"response": log_guide}
        self.draws = [Draws(prompts, values, log_guides, log_weight, share=share)]
        return losses

    def _check_model(self, model: Program) -> None:
        """Refuse another model than in the steps before, if these left a state."""
        is_same = _MODELS.setdefault(self, SameModel(model))
        if not is_same(model) and self.get_state():
            name, has = type(self).__name__, "log Z, ranks or responses of an earlier step"
            raise ValueError(
                f"the {name} has {has}, and these are of another model: make a new objective for "
                "each model, and pass the same program in each step"
            )

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        raise NotImplementedError("objectives over one site do not run model and guide in pairs")

    def draw(self, guide: Program, prompts: Prompts) -> tuple[TorchDistribution, Tensor]:
        """Run the guide and draw K responses: its distribution, and the responses `[K, N, T]`."""
        return self._run(guide, prompts, lambda q: q.sample((self.num_particles,)))

    def draw_by(
        self,
        guide: Program,
        prompts: Prompts,
        sample: Callable[[TorchDistribution], tuple[Tensor, Tensor]],
    ) -> tuple[TorchDistribution, Tensor, Tensor]:
        """`draw` by a function whose log densities are known; with these as a third result.

        Args:
            guide, prompts: See `draw`.
            sample: Function of the guide's distribution that returns responses `[K, N, T]`, and the
                log densities that they were drawn from, without gradient: `[K, N]` of responses, as
                by `sample_and_log_prob`, or `[K, N, T]` of tokens, as by an engine.
        """
        log_probs = []

        def draw(distribution: TorchDistribution) -> Tensor:
            response, log_prob = sample(distribution)
            log_probs.append(log_prob)
            return response

        return *self._run(guide, prompts, draw), *log_probs

    def distribution(self, guide: Program, prompts: Prompts, response: Tensor) -> TorchDistribution:
        """Run the guide with given responses `[..., N, T]` at its site; return its distribution."""
        return self._run(guide, prompts, lambda _: response)[0]

    def _run(
        self, guide: Program, prompts: Prompts, draw: Callable[[TorchDistribution], Tensor]
    ) -> tuple[TorchDistribution, Tensor]:
        at_response = ResponseValue(prompts, draw)
        with at_response:
            trace = poutine.trace(guide).get_trace(prompts)
        sites = [name for name, site in trace.nodes.items() if is_sample(site)]
        others = [name for name in sites if name != "response"]
        if at_response.distribution is None or others:
            fault = f"{type(self).__name__} needs a guide with the site 'response' and no other"
            raise ValueError(f"{fault}, got {others or 'none'}. {PAIRED} take any guide.")
        site = check_response_site(trace, prompts, "guide")
        return site["fn"], site["value"]

    def score(self, model: Program, prompts: Prompts, response: Tensor) -> Joint:
        """log p0 and log likelihood of responses, `[..., N]` each, nats, float64, no gradient."""
        prior, log_likelihood = self.read_model(model, prompts, response)
        with torch.no_grad():
            return Joint(prior.log_prob(response).double(), log_likelihood)

    def read_model(
        self, model: Program, prompts: Prompts, response: Tensor
    ) -> tuple[TorchDistribution, Tensor]:
        """Prior, without scoring, and log likelihood `[..., N]`, nats, float64, no gradient."""
        return self.read_factors(model, prompts, response)[:2]

    def read_factors(
        self, model: Program, prompts: Prompts, response: Tensor
    ) -> tuple[TorchDistribution, Tensor, dict[str, Tensor]]:
        """Result of `read_model`, and the rewards, over beta, and factors by name, `[..., N]`."""
        support = HardConstraintSupport() if self.supports_hard_constraints else nullcontext()
        with torch.no_grad(), support:
            trace = trace_at(model, prompts, response, role="model")
        total, factors = factors_of(trace)
        each = {name: factor.double().expand(total.shape) for name, factor in factors.items()}
        return trace.nodes["response"]["fn"], total, each


_MODELS: WeakKeyDictionary[ResponseObjective, SameModel] = WeakKeyDictionary()
"""Model of the first step of each objective; no attribute, which a copy would copy."""


def check_losses(name: str, losses: Losses) -> Losses:
    """Refuse a result of `losses` that is no `Losses`, or has other shapes; return the result."""
    instance(f"the result of {name}.losses", losses, Losses)
    of_responses = ("log_guide", "log_weight", "log_likelihood", "share")
    for field, value in losses._asdict().items():
        expected = losses.response.shape[:-1] if field in of_responses else ()
        if field != "response" and value is not None and value.shape != expected:
            raise ValueError(
                f"{name}.losses returned {field} of shape {tuple(value.shape)}, expected "
                f"{tuple(expected)} for responses of shape {tuple(losses.response.shape)}"
            )
    return losses

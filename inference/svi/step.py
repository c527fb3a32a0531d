"""One step of `pyro.infer.SVI` in a fit, from the prompts to the changed parameters.

state        `rollback.py`            restored after a failure
gradient     the objective            draws, loss, and `.grad` at the parameters
numbers      `step_numbers.py`        of these draws: metrics, health, limits of the step
parameters   `optimizer/checked.py`   checks, a copy, the step (`_advance`), checks
"""

import math
from functools import partial

import torch
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn

from guides.guide import GuideRegistrationError
from inference.objectives.parts.draws import Draws
from inference.programs import Program
from inference.response_site import ResponseSiteError, SameResponses
from inference.svi.checkpoint.state import FitState, parameters
from inference.svi.fit_objective import FitObjective, TraceObjective, elbo_of
from inference.svi.optimizer.trust_region import LimitedSteps
from inference.svi.options import FitOptions
from inference.svi.response_metrics import Metrics, ModelRuns
from inference.svi.rollback import Rollback
from inference.svi.step_numbers import StepNumbers, step_numbers, step_size
from model import AlignmentModel, Prompts, ResponseDistribution, ResponseSpace
from model.common.ranks import average_gradients
from model.networks.layers.layer_checkpoints import checkpointed_layers
from model.prior.division import divided


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite. The parameters are as before the step."""


class NothingToTrainError(ValueError):
    """No gradient reaches any parameter."""


class Stepper:
    """The steps of a fit, each on some of its prompts.

    Args:
        model: a Pyro program over prompts.
        state: state of the fit, which each step advances.
        num_prompts: number of prompts of the fit.
        options: options of the fit.
    """

    def __init__(
        self, model: Program, state: FitState, num_prompts: int, options: FitOptions
    ) -> None:
        self._model, self._state, self._options = model, state, options
        self._num_prompts = num_prompts
        self._numbers: StepNumbers
        self._rollback = Rollback(state)
        self._is_first = self._is_fresh = True
        programs = [model, state.guide]
        if options.micro_batch is not None:  # the innermost handler: others see its distribution
            programs = [MicroBatches(options.micro_batch)(program) for program in programs]
        gradient = self._checked_gradient
        self._svi = SVI(*programs, state.optimizer, loss=gradient, loss_and_grads=gradient)

    def take(self, prompts: Prompts) -> Metrics:
        """Take one step, and return the metrics. After a failure the state is as before the step.

        Raises:
            NonFiniteLossError: if the loss is NaN or infinite.
            NonFiniteGuideError: if the step before left a guide that gives NaN; both are undone.
            NothingToTrainError: if the first gradient reaches no parameter.
        """
        layers = checkpointed_layers(self._options.checkpoint_activations)
        with self._rollback.step(prompts), layers, divided(self._options.divide):
            return self._take(prompts)

    def _take(self, prompts: Prompts) -> Metrics:
        state, optimizer = self._state, self._state.optimizer
        self._is_fresh = not state.objective.reuses_draws
        rate, step_count = optimizer.learning_rate, optimizer.step_count
        loss = self._svi.step(prompts)
        if state.step == 0 and optimizer.step_count == step_count:
            raise NothingToTrainError(
                "no gradient reaches any of the parameters that Pyro hands to the optimiser, "
                "though some in its store have one: expected a guide whose parameters no "
                "`poutine.block` hides"
            )
        state.step += 1
        if self._is_fresh:
            state.num_responses += state.objective.num_particles * len(prompts)
            self._add_fresh_draws()
        return {
            "step": state.step,
            "num_responses": state.num_responses,
            "loss": loss,
            "grad_norm": optimizer.grad_norm,
            "learning_rate": rate,
            "step_size": optimizer.step_size,
        } | self._numbers.metrics

    def _add_fresh_draws(self) -> None:
        """Add the fresh draws of a step to health and best iterate of the fit."""
        state, numbers = self._state, self._numbers
        log_likelihood = numbers.metrics["log_likelihood"]
        state.health.add(state.step, numbers.of_draws, log_likelihood, state.optimizer.grad_norm)
        if state.best is not None:
            before = state.optimizer.parameters_before_step
            state.best.consider(state.step - 1, state.health.elbo, before)

    def _checked_gradient(self, model: Program, guide: Program, prompts: Prompts) -> float:
        """The loss, with its gradient at the parameters. Measures the draws of the step."""
        state, objective, optimizer = self._state, self._state.objective, self._state.optimizer
        with SameResponses() as same, ModelRuns() as runs:
            loss = objective.loss_and_grads(model, guide, prompts)
        average_gradients(parameters())
        draws = objective.draws or []
        if self._is_fresh:
            state.reward = runs.reward(self._model, draws)
        self._numbers = step_numbers(
            objective,
            loss,
            self._num_prompts,
            space=same.space,
            reward=state.reward,
            has_limits=isinstance(optimizer, LimitedSteps),
        )
        loss = self._numbers.loss
        if not math.isfinite(loss):
            if isinstance(objective, TraceObjective):
                objective.warn_of_sites()
            why = no_responses(same.space, draws)
            raise NonFiniteLossError(
                f"the loss is {loss}; the parameters were left as they were{why}"
            )
        if self._is_first:
            check_trains(self._model, state.guide, objective)
            self._is_first = False
        if isinstance(optimizer, LimitedSteps) and self._numbers.limits is not None:
            optimizer.expect(self._numbers.limits, partial(step_size, guide, draws))
        return loss


def no_responses(space: ResponseSpace | None, draws: list[Draws]) -> str:
    """Number of rows that a guide drew and that are no responses of the prior, in words."""
    rows = [draw.values["response"] for draw in draws if "response" in draw.values]
    if space is None or not rows:
        return ""
    is_outside = torch.cat([~space.contains(each).flatten() for each in rows])
    if not is_outside.any():
        return ""
    return (
        f". {int(is_outside.sum())} of {len(is_outside)} rows that the guide drew are no responses "
        f"of the prior, which have the id {space.pad_id} alone after an end: draw from a "
        "`ResponseDistribution` with `prior.space`"
    )


def check_trains(model: Program, guide: Program, objective: FitObjective) -> None:
    """Refuse a first gradient that reaches no parameter in Pyro's store, or others of the guide.

    Parameters of the objective's own heads do not count. A gradient of the prior of an
    `AlignmentModel`, which is frozen, is refused.
    """
    registered = parameters()
    of_model = model.prior.parameters() if isinstance(model, AlignmentModel) else ()
    of_prior = {id(parameter) for parameter in of_model}
    if any(p.grad is not None and id(p) in of_prior for p in registered.values()):
        raise GuideRegistrationError(
            "the guide trains the parameters of the model's own prior, which would move the "
            "posterior: expected a guide of `guides`, or one with `copy.deepcopy(prior)`"
        )
    known = {id(parameter) for parameter in registered.values()}
    own = dict(guide.named_parameters()) if isinstance(guide, nn.Module) else {}
    stray = [name for name, p in own.items() if p.grad is not None and id(p) not in known]
    if stray:
        raise GuideRegistrationError(
            f"Pyro does not know {len(stray)} parameters of the guide that have a gradient, first "
            f"{stray[0]!r}, so that they would not train: call `pyro.module(NAME, guide)` where "
            "the guide runs, or freeze them with `requires_grad_(False)`"
        )
    heads = [head for head in vars(elbo_of(objective)).values() if isinstance(head, nn.Module)]
    of_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    if any(p.grad is not None and id(p) not in of_heads for p in registered.values()):
        return
    trainable = any(parameter.requires_grad for parameter in own.values())
    frozen = f" All {len(own)} parameters of the guide are frozen." if own and not trainable else ""
    raise NothingToTrainError(
        f"no gradient reaches any of the {len(registered)} parameters in Pyro's store, so nothing "
        f"would be trained.{frozen} Expected a guide with `pyro.param` or `pyro.module`, and "
        "parameters that require a gradient. A `LanguageModel` freezes the network that it is made "
        "of, a guide's too (`requires_grad_(True)` thaws it); `detach` and `no_grad` cut the "
        "gradient"
    )


class MicroBatches(Messenger):
    """Handler that reads the responses of a program with gradient for at most `size` at a time.

        grad sum_b f(log q(x_b)) = sum over micro-batches of sum_(b in it) f'_b grad log q(x_b)

    Draws, scores and the loss are of the whole batch. The pass that scores a micro-batch keeps no
    activations; the backward pass computes the micro-batch again, with f' of the whole batch. This
    is gradient caching (Gao et al. 2021, arXiv 2101.06983), inside the distribution at the site: no
    objective is changed, and every objective has the gradient of the whole batch.

    Raises:
        ResponseSiteError: in a run, if the program draws from another distribution than a
            `ResponseDistribution`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def _pyro_sample(self, msg: dict) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if not isinstance(msg["fn"], ResponseDistribution):
            raise ResponseSiteError(
                f"the site {msg['name']!r} has a {type(msg['fn']).__name__}, which cannot be "
                "scored in micro-batches, expected a `ResponseDistribution`: leave micro_batch out"
            )
        msg["fn"] = msg["fn"].in_micro_batches(self.size)

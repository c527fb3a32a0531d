"""One step of `pyro.infer.SVI` in a fit, from the prompts to the changed parameters.

state        `rollback.py`            restored after a failure
gradient     the objective            draws, loss, and `.grad` at the parameters
numbers      `step_numbers.py`        of these draws: metrics, health, limits of the step
parameters   `optimizer/checked.py`   checks, a copy, the step (`_advance`), checks
"""

import math
from functools import partial

from pyro.infer import SVI

from inference.objectives.parts.surrogate_loss import unread
from inference.programs import Program
from inference.response_site import SameResponses
from inference.svi.checkpoint.state import FitState, parameters
from inference.svi.fit_objective import TraceObjective, elbo_of
from inference.svi.gradient_checks import NothingToTrainError, check_trains, no_responses
from inference.svi.micro_batches import MicroBatches
from inference.svi.optimizer.trust_region import LimitedSteps
from inference.svi.options import FitOptions
from inference.svi.response_metrics import Metrics, ModelRuns
from inference.svi.rollback import NonFiniteLossError, Rollback
from inference.svi.step_numbers import StepNumbers, step_numbers, step_size
from model import Prompts
from model.common.ranks import average_gradients
from model.networks.layers.layer_checkpoints import checkpointed_layers
from model.prior.division import divided


class Stepper:
    """The steps of a fit, each on some of its `num_prompts` prompts. A step advances the state."""

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
        """Take one step, and return the metrics; see `Rollback.step` for a failure."""
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
        with SameResponses() as same, ModelRuns() as runs, unread(elbo_of(objective)):
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

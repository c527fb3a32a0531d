"""One step of `pyro.infer.SVI` in a fit: the gradient by the objective, checks, metrics."""

import math
from functools import partial
from typing import Any

import torch
from pyro.infer import SVI
from torch import nn

from guides.guide import GuideRegistrationError
from inference.objectives.pyro_objectives import OTHER_BOUNDS
from inference.objectives.response_objective import ResponseObjective
from inference.programs import Program
from inference.response_site import SameResponses
from inference.svi.checkpoint.state import FitState, parameters
from inference.svi.draw_record import DrawRecord
from inference.svi.micro_batches import in_micro_batches
from inference.svi.optimizer.trust_region import TrustRegion
from inference.svi.response_metrics import Metrics, ModelRuns, response_metrics, rewarded
from inference.svi.step_size import distance_left, step_size
from model import Prompts
from model.common.ranks import average_gradients


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite. The parameters are as before the step."""


class NothingToTrainError(ValueError):
    """No gradient reaches any parameter."""


def checked_svi(
    model: Program, state: FitState, record: DrawRecord, micro_batch: int | None = None
) -> SVI:
    """SVI that refuses a loss that is not finite, and a first gradient that trains nothing."""
    model, guide = (in_micro_batches(program, micro_batch) for program in (model, state.guide))
    svi = SVI(model, guide, state.optimizer, state.objective)
    loss_and_grads, trains = svi.loss_and_grads, False

    def checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal trains
        loss = loss_and_grads(*args, **kwargs)
        average_gradients(parameters())
        if not math.isfinite(bound := _bound(loss)):
            raise NonFiniteLossError(f"the loss is {bound}; the parameters were left as they were")
        if not trains:
            check_trains(state.guide, state.objective)
            trains = True
        draws = record.take()
        if isinstance(state.optimizer, TrustRegion):
            state.optimizer.distance = distance_left(record.require_matrices())
            state.optimizer.measure = partial(step_size, guide, draws)
        return loss

    svi.loss_and_grads = checked
    return svi


def take_step(
    svi: SVI, model: Program, state: FitState, prompts: Prompts, record: DrawRecord
) -> Metrics:
    """Take one step of SVI, count the step in `state`, and return the metrics."""
    optimizer, objective, reuses_draws = state.optimizer, state.objective, state.reuses_draws
    rate, step_count = optimizer.learning_rate, optimizer.step_count
    with SameResponses() as same, ModelRuns() as runs:
        loss = _bound(svi.step(prompts))
    if state.step == 0 and optimizer.step_count == step_count:
        raise NothingToTrainError(
            "no gradient reaches any of the parameters that Pyro hands to the optimiser, though "
            "some in its store have one: expected a guide whose parameters no `poutine.block` hides"
        )
    state.step += 1
    state.num_responses += 0 if reuses_draws else objective.num_particles * len(prompts)
    size = optimizer.step_size if isinstance(optimizer, TrustRegion) else math.nan
    if isinstance(objective, ResponseObjective):
        elbo, log_likelihood = objective.metrics["elbo"], objective.metrics["log_likelihood"]
    else:
        elbo = math.nan if isinstance(objective, OTHER_BOUNDS) else -loss / len(prompts)
        log_likelihood = runs.log_likelihood()
    if not reuses_draws:
        state.health.add(state.step, record.numbers, log_likelihood)
        if state.best is not None:
            before = optimizer.parameters_before_step
            state.best.consider(state.step - 1, state.health.elbo, before)
    if (with_rewards := rewarded(model)) is None:
        state.reward = None
    elif not reuses_draws:
        reward = runs.reward(with_rewards, record.draws) if record.draws else None
        state.reward = torch.empty(0) if reward is None else reward
    share = None if record.matrices is None else record.matrices.share
    return {
        "step": state.step,
        "num_responses": state.num_responses,
        "elbo": elbo,
        "loss": loss,
        "log_likelihood": log_likelihood,
        "entropy": record.numbers.entropy,
        "grad_norm": optimizer.grad_norm,
        "learning_rate": rate,
        "step_size": size,
    } | response_metrics(record.draws, share, same.space, log_likelihood - elbo, state.reward)


def check_trains(guide: Program, objective: Any) -> None:
    """Refuse a first gradient that reaches no parameter in Pyro's store, or others of the guide.

    Parameters of the objective's own heads do not count.
    """
    registered = parameters()
    known = {id(parameter) for parameter in registered.values()}
    own = dict(guide.named_parameters()) if isinstance(guide, nn.Module) else {}
    stray = [name for name, p in own.items() if p.grad is not None and id(p) not in known]
    if stray:
        raise GuideRegistrationError(
            f"Pyro does not know {len(stray)} parameters of the guide that have a gradient, first "
            f"{stray[0]!r}, so that they would not train: call `pyro.module(NAME, guide)` where "
            "the guide runs, or freeze them with `requires_grad_(False)`"
        )
    heads = [head for head in vars(objective).values() if isinstance(head, nn.Module)]
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


def _bound(loss: float | tuple[float, ...]) -> float:
    """The loss as one number; of the two losses of `ReweightedWakeSleep` the bound."""
    return loss[0] if isinstance(loss, tuple) else loss

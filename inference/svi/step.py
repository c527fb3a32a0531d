"""One step of `pyro.infer.SVI` in a fit: what is checked in it, and its metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer import SVI, RenyiELBO, ReweightedWakeSleep, TraceTMC_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.objectives import ResponseObjective
from inference.programs import Program
from inference.response_site import SameResponses
from inference.svi.checkpoint.checkpoint import FitState
from inference.svi.fit_checks import NothingToTrainError, check_trains
from model import Prompts

Metrics = dict[str, float]

OF_ANOTHER_BOUND = (RenyiELBO, ReweightedWakeSleep, TraceTMC_ELBO)
"""Objectives of Pyro whose loss is not minus the ELBO."""


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite. The parameters are as they were before the step."""


def checked_svi(model: Program, state: FitState) -> SVI:
    """SVI of a fit's state, whose step raises before the optimiser sees a bad gradient.

    Bad is that of a loss which is NaN or infinite, and the first one if it trains nothing.
    """
    svi = SVI(model, state.guide, state.optimizer, state.objective)
    loss_and_grads, trains = svi.loss_and_grads, False

    def checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal trains
        loss = loss_and_grads(*args, **kwargs)
        if not math.isfinite(_bound(loss)):
            raise NonFiniteLossError(
                f"the loss is {_bound(loss)}; the parameters were left as they were"
            )
        if not trains:
            check_trains(state.guide, state.objective)
            trains = True
        return loss

    svi.loss_and_grads = checked
    return svi


def take_step(svi: SVI, state: FitState, prompts: Prompts) -> Metrics:
    """One step of SVI, counted in `state`. Returns its metrics.

    Raises:
        NothingToTrainError: if the first step hands the optimiser nothing that has a gradient.
    """
    rate, objective, taken = (
        state.optimizer.learning_rate,
        state.objective,
        state.optimizer.step_count,
    )
    with SameResponses(), _RecordEvidence() as reward:
        loss = _bound(svi.step(prompts))
    if state.step == 0 and state.optimizer.step_count == taken:
        raise NothingToTrainError(
            "no gradient reaches any of the parameters that Pyro hands to the optimiser, though some in its store have one: "
            "expected a guide whose parameters no `poutine.block` hides"
        )
    state.step += 1
    if isinstance(objective, ResponseObjective):
        metrics = objective.metrics
    else:
        elbo = math.nan if isinstance(objective, OF_ANOTHER_BOUND) else -loss / len(prompts)
        metrics = {"elbo": elbo, "log_likelihood": reward.mean()}
    return {
        "step": state.step,
        "elbo": metrics["elbo"],
        "loss": loss,
        "log_likelihood": metrics["log_likelihood"],
        "grad_norm": state.optimizer.grad_norm,
        "learning_rate": rate,
    }


class _RecordEvidence(Messenger):
    """A record of every factor that a model adds, r/beta: means over the responses of each run of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: dict[str, list[Tensor]] = {}
        self.enumerated = False

    def _pyro_post_sample(self, msg: dict) -> None:
        self.enumerated |= not msg["infer"].keys().isdisjoint({"_enumerate_dim", "_enum_total"})
        if isinstance(msg["fn"], Unit):
            factor = scale_and_mask(msg["fn"].log_factor, msg["scale"], msg["mask"])
            self.factors.setdefault(msg["name"], []).append(factor.detach().mean())

    def mean(self) -> float:
        """The factors added up, each averaged over the model's runs; NaN over a list, whose responses do not count alike."""
        if self.enumerated:
            return math.nan
        means = [torch.stack(values).mean() for values in self.factors.values()]
        return torch.stack(means).sum().item() if means else math.nan  # the one wait for the device


def _bound(loss: float | tuple[float, ...]) -> float:
    """The loss as one number; `ReweightedWakeSleep` returns two, of which the first is the bound."""
    return loss[0] if isinstance(loss, tuple) else loss

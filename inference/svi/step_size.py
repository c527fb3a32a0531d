"""Size of a step in nats, on the responses that the step drew: one pass of the guide.

    size = 1/2 mean_x (log q_new(x) - log q_old(x))^2

log q_old is known from the step's loss. At most `MOST` responses are scored again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.objectives.response_objective import Draws, ResponseObjective
from inference.programs import Program
from inference.response_site import is_sample
from model import Prompts

MOST = 32
"""Largest number of responses behind a size, whose standard error is then a quarter of the size."""


class NoDrawsError(ValueError):
    """An objective does not show the draws of the guide, so that a step has no size in nats."""


class DrawRecord:
    """Draws of the guide in the current step of an objective."""

    def __init__(self, objective: ELBO) -> None:
        self._objective = objective
        self._traces: list[tuple[Prompts, Trace, Trace]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the traces from which an objective of Pyro computes the loss."""
        if isinstance(self._objective, ResponseObjective):
            yield
            return
        get_trace = self._objective._get_trace

        def recorded(model: Program, guide: Program, args: tuple, kwargs: dict) -> Any:
            traces = get_trace(model, guide, args, kwargs)
            self._traces.append((args[0], *traces))
            return traces

        vars(self._objective)["_get_trace"] = recorded
        try:
            yield
        finally:
            del vars(self._objective)["_get_trace"]

    def take(self) -> list[Draws]:
        """Return the draws since the last call."""
        if isinstance(self._objective, ResponseObjective):
            return [] if self._objective.draws is None else [self._objective.draws]
        traces, self._traces = self._traces, []
        if not traces:
            raise NoDrawsError(
                f"{type(self._objective).__name__} does not show the draws of the guide, so that a "
                "step has no size in nats: pass a `learning_rate` to `fit`, or an optimizer"
            )
        return [_draws_of(*each) for each in traces]


def _draws_of(prompts: Prompts, model_trace: Trace, guide_trace: Trace) -> Draws:
    """Values, log q and log weights of a pair of traces."""
    sites = {name: site for name, site in guide_trace.nodes.items() if is_sample(site)}
    infer = [site["infer"] for site in sites.values()]
    return Draws(
        prompts,
        values={name: site["value"].detach() for name, site in sites.items()},
        log_guide={name: site["unscaled_log_prob"].detach() for name, site in sites.items()},
        log_weight=_log_prob(model_trace) - _log_prob(guide_trace),
        every=any("_enumerate_dim" in each and not each.get("num_samples") for each in infer),
    )


def _log_prob(trace: Trace) -> Tensor:
    """Sum of the log probabilities of all sites, in the shape of a batch."""
    sites = [site for site in trace.nodes.values() if is_sample(site)]
    return torch.stack(torch.broadcast_tensors(*(s["log_prob"].detach() for s in sites))).sum(0)


def distance_left(draws: list[Draws]) -> float:
    """Half the variance of the log-weights, which is KL(q || p*) up to third order, nats.

    Averaged over prompts. Infinite if a prompt has fewer than two possible draws.
    """
    log_weight = torch.cat([torch.atleast_2d(batch.log_weight.double()) for batch in draws])
    log_weight = log_weight.flatten(1)
    if draws[0].every:
        weight = _total(draws[0].log_guide).exp().reshape(log_weight.shape)
    else:
        weight = torch.ones_like(log_weight)
    weight = weight.masked_fill(log_weight.isneginf(), 0.0)
    few = (weight > 0).sum(0) < 2
    weight = weight / weight.sum(0)
    log_weight = log_weight.masked_fill(weight == 0, 0.0)
    mean = (weight * log_weight).sum(0)
    half = 0.5 * (weight * (log_weight - mean).square()).sum(0)
    return half.masked_fill(few, torch.inf).mean().item()


@torch.no_grad()
def step_size(guide: Program, draws: list[Draws]) -> float:
    """Size of the step from the guide that made the draws to the guide as it is now, nats.

    The mean over draws and prompts. NaN if the guide has no numbers any more.
    """
    squares, weights = [], []
    for batch in map(_first, draws):
        values = _Values(batch.values)
        with pyro.validation_enabled(False), poutine.block(), values:
            guide(batch.prompts)
        old = _total(batch.log_guide)
        change = _total(values.log_guide) - old
        weight = old.exp() if batch.every else torch.ones_like(old)
        # an impossible value stays impossible, and infinity minus infinity is no number
        change = torch.where(weight == 0, 0.0, change)
        squares.append((weight * change.square()).sum())
        weights.append(weight.sum())
    return 0.5 * (torch.stack(squares).sum() / torch.stack(weights).sum()).item()


def _total(log_guide: dict[str, Tensor]) -> Tensor:
    """Sum over sites, in the shape of a batch, float64."""
    return torch.stack(torch.broadcast_tensors(*log_guide.values())).double().sum(0)


def _first(draws: Draws) -> Draws:
    """The first draws, at most `MOST` responses, if one site has `[K, N]` draws."""
    [(name, value), *others] = draws.values.items()
    log_guide = draws.log_guide[name]
    if others or draws.every or log_guide.dim() != 2:
        return draws
    number = max(1, MOST // log_guide.shape[1])
    return draws._replace(values={name: value[:number]}, log_guide={name: log_guide[:number]})


class _Values(Messenger):
    """Handler that gives the sites of a guide their values, and keeps log q of each."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_guide: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict) -> None:
        if (value := self.values.get(msg["name"])) is not None:
            self.log_guide[msg["name"]] = msg["fn"].log_prob(value)
            msg["value"], msg["done"] = value, True

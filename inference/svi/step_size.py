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
        self._traces: list[tuple[Prompts, Trace]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the guide's traces from which an objective of Pyro computes the loss."""
        if isinstance(self._objective, ResponseObjective):
            yield
            return
        get_trace = self._objective._get_trace

        def recorded(model: Program, guide: Program, args: tuple, kwargs: dict) -> Any:
            traces = get_trace(model, guide, args, kwargs)
            self._traces.append((args[0], traces[1]))
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
        return [_draws_of(prompts, trace) for prompts, trace in traces]


def _draws_of(prompts: Prompts, trace: Trace) -> Draws:
    """Values and log q in a trace of the guide."""
    sites = {name: site for name, site in trace.nodes.items() if is_sample(site)}
    log_guide = {name: site["unscaled_log_prob"].detach() for name, site in sites.items()}
    infer = [site["infer"] for site in sites.values()]
    every = any("_enumerate_dim" in each and not each.get("num_samples") for each in infer)
    values = {name: site["value"].detach() for name, site in sites.items()}
    return Draws(prompts, values, log_guide, every)


@torch.no_grad()
def step_size(guide: Program, draws: list[Draws]) -> float:
    """Size of the step from the guide that made the draws to the guide as it is now, nats.

    The mean over draws and prompts. NaN if the guide has no numbers any more.
    """
    squares, weights = [], []
    for batch in draws:
        batch = _first(batch)
        values = _Values(batch.values)
        with pyro.validation_enabled(False), poutine.block(), values:
            guide(batch.prompts)
        pairs = [(values.log_guide[name], old) for name, old in batch.log_guide.items()]
        change = sum((new - old).double() for new, old in pairs)
        old = sum(old.double() for _, old in pairs)
        weight = old.exp() if batch.every else torch.ones_like(old)
        # an impossible value stays impossible, and infinity minus infinity is no number
        change = torch.where(weight == 0, 0.0, change)
        squares.append((weight * change.square()).sum())
        weights.append(weight.sum())
    return 0.5 * (torch.stack(squares).sum() / torch.stack(weights).sum()).item()


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

"""An objective as a fit sees it: the same for the objectives of this project and of Pyro.

A fit reads the members of `ResponseObjective`. `TraceObjective` gives them to any other ELBO of
`pyro.infer`: draws and metrics are read off the traces of model and guide.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from typing import Any, TypeAlias

import torch
from pyro import poutine, settings
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, RenyiELBO, ReweightedWakeSleep, TraceTMC_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.util import warn_if_inf, warn_if_nan
from torch import Tensor

from inference.objectives.parts.draws import Draws
from inference.objectives.parts.response_objective import ResponseObjective
from inference.programs import Program, name_of
from inference.response_site import ResponseSiteError, is_sample
from model import Prompts


class _FactorMeans(Messenger):
    """Record of the means of all factors in the runs of a model in a step."""

    def __init__(self) -> None:
        super().__init__()
        self._means: dict[str, list[Tensor]] = {}
        self._is_enumerated = False

    def _pyro_post_sample(self, msg: dict) -> None:
        infer = msg["infer"].keys()
        self._is_enumerated |= not infer.isdisjoint({"_enumerate_dim", "_enum_total"})
        if isinstance(msg["fn"], Unit):
            log_factor = msg["fn"].log_factor.detach()
            mean = scale_and_mask(log_factor, msg["scale"], msg["mask"]).mean()
            self._means.setdefault(msg["name"], []).append(mean)

    def log_likelihood(self) -> Tensor | float:
        """Sum of the factors' means over all runs; NaN if Pyro enumerated, which needs weights."""
        if self._is_enumerated or not self._means:
            return math.nan
        means = [torch.stack(values).mean() for values in self._means.values()]
        return torch.stack(means).sum().double()


def _sums_of(traces: list[tuple[Trace, Trace]]) -> Iterator[tuple[str, Tensor]]:
    """Sum of the log probabilities of each site that has one, with the site's name."""
    for name, site in chain.from_iterable(trace.nodes.items() for trace in chain(*traces)):
        if (log_prob := site.get("log_prob_sum")) is not None:
            yield name, log_prob.detach()


class TraceObjective:
    """One of Pyro's objectives, with the members of `ResponseObjective` that a fit reads.

    Args:
        elbo: an ELBO that computes its loss from pairs of traces; without traces there are no
            `draws`, and `metrics` are NaN if unknown.
    """

    takes_whole_steps = reuses_draws = False

    def __init__(self, elbo: ELBO) -> None:
        self.elbo = elbo
        self.num_particles = elbo.num_particles
        self.step_count = 0
        self.draws: list[Draws] | None = None
        self.metrics: dict[str, Any] = {}
        self._sums: list[tuple[str, Tensor]] = []
        is_elbo = not isinstance(elbo, RenyiELBO | ReweightedWakeSleep | TraceTMC_ELBO)
        self._loss_is_elbo = is_elbo
        self.ascends_elbo = getattr(elbo, "ascends_elbo", is_elbo)
        power = 1.0 - elbo.alpha if isinstance(elbo, RenyiELBO) else 0.0
        power = 1.0 if isinstance(elbo, ReweightedWakeSleep) else power
        self.weight_power = getattr(elbo, "weight_power", power)

    def loss_and_grads(self, model: Program, guide: Program, prompts: Prompts) -> float | Tensor:
        """One step, with a record of the traces; of two losses the first, which is the bound.

        A tensor if nothing has waited for the loss yet.
        """
        traces: list[tuple[Trace, Trace]] = []
        get_trace = self.elbo._get_trace

        def recorded(*args: Any) -> tuple[Trace, Trace]:
            try:
                traces.append(get_trace(*args))
            except ValueError as error:
                if "has_rsample" not in str(error):  # the error of Pyro for a factor in a guide
                    raise
                fault = f"the guide, {name_of(guide)}, has a factor, as a model has"
                fix = "are model and guide in each other's place?"
                raise ResponseSiteError(f"{fault}: {fix} {error}") from error
            return traces[-1]

        vars(self.elbo)["_get_trace"] = recorded
        # the checks of each site for NaN and infinity wait for a GPU: the first step has them alone
        checks = nullcontext() if self.draws is None else settings.context(validate_poutine=False)
        try:
            with _FactorMeans() as factors, checks:
                loss = self.elbo.loss_and_grads(model, guide, prompts)
        finally:
            del vars(self.elbo)["_get_trace"]
        bound = loss[0] if isinstance(loss, tuple) else loss
        bound = bound.detach() if isinstance(bound, Tensor) else bound
        self._sums = list(_sums_of(traces))
        self.draws = [_draws_of(prompts, *pair) for pair in traces]
        elbo = -bound / len(prompts) if self._loss_is_elbo else math.nan
        self.metrics = {"elbo": elbo, "log_likelihood": factors.log_likelihood()}
        return bound

    def warn_of_sites(self) -> None:
        """Name the sites of the last step with NaN or infinity, by Pyro's warnings."""
        for name, log_prob in self._sums if poutine.is_validation_enabled() else ():
            warn_if_nan(log_prob, f"log_prob_sum at site {name!r}")
            warn_if_inf(log_prob, f"log_prob_sum at site {name!r}", allow_neginf=True)

    def get_state(self) -> dict[str, Tensor]:
        """Nothing: a step does not depend on the steps before."""
        return {}

    copy_state = get_state

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take the empty state."""


FitObjective: TypeAlias = ResponseObjective | TraceObjective


def fit_objective(elbo: ELBO) -> FitObjective:
    """An ELBO as a fit sees it."""
    return elbo if isinstance(elbo, ResponseObjective) else TraceObjective(elbo)


def elbo_of(objective: FitObjective) -> ELBO:
    """The ELBO that was passed to the fit."""
    return objective.elbo if isinstance(objective, TraceObjective) else objective


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

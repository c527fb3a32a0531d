"""Densities of any model and any guide at given responses, by running their programs.

A model or a guide is a callable that runs the sample site `response`; nothing else is asked of it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from model import BearsZeroEvidence, Prompts, ResponseDistribution

Program = Callable[[Prompts], Any]


class Joint(NamedTuple):
    """log p0(x) and r(x)/beta at some responses, `[..., N]`, nats; their sum is `log_joint`."""

    log_prior: Tensor
    log_evidence: Tensor

    @property
    def log_joint(self) -> Tensor:
        return self.log_prior + self.log_evidence


def run(program: Program, prompts: Prompts, response: Tensor | None = None) -> Trace:
    """The trace of a program, with `response` at its site if one is given. Bears evidence of -inf.

    A module brings its parameters along, so it runs in an empty scope of Pyro's parameter store, where it can neither meet
    another's parameters nor leave its own behind. A plain function finds its parameters in the store as it is.
    """
    with BearsZeroEvidence(), parameter_scope(program):
        return trace_at(program, prompts, response)


def trace_at(program: Program, prompts: Prompts, response: Tensor | None = None) -> Trace:
    """As `run`, with Pyro's store as it is and evidence of -inf refused: for an objective, inside a step of SVI."""
    conditioned = program if response is None else poutine.condition(program, data={"response": response})
    return poutine.trace(conditioned).get_trace(prompts)


@contextmanager
def parameter_scope(program: Program) -> Iterator[None]:
    """An empty scope of Pyro's parameter store, if the program is a module; the store as it is, if it is not."""
    if isinstance(program, nn.Module):
        with pyro.get_param_store().scope():
            yield
    else:
        yield


def joint_at(model: Program, prompts: Prompts, response: Tensor) -> Joint:
    """The model's density at `response` `[..., N, T]`: the sample site, and all its factors added up."""
    trace = run(model, prompts, response)
    return Joint(_log_prob(trace.nodes["response"]), log_factors(trace))


def log_evidence_at(model: Program, prompts: Prompts, response: Tensor) -> Tensor:
    """All factors of a model added up, r(x)/beta, `[..., N]`, nats, without the cost of scoring `response` under the prior."""
    return log_factors(run(model, prompts, response))


def log_guide_at(guide: Program, prompts: Prompts, response: Tensor) -> Tensor:
    """log q(response | prompt), `[..., N]`, nats, with gradient."""
    return _log_prob(run(guide, prompts, response).nodes["response"])


def response_distribution(program: Program, prompts: Prompts) -> TorchDistribution:
    """The distribution at the `response` site of a model or a guide, batch shape `[N]`."""
    return run(program, prompts).nodes["response"]["fn"]


def autoregressive(distribution: TorchDistribution) -> ResponseDistribution:
    """The distribution, if it is one that goes token by token.

    Raises:
        TypeError: if it is not a `ResponseDistribution`.
    """
    if not isinstance(distribution, ResponseDistribution):
        raise TypeError(
            f"the site 'response' has a {type(distribution).__name__}, expected a `ResponseDistribution`: this algorithm goes "
            "token by token. `LeaveOneOut_ELBO`, importance and rejection sampling take any distribution."
        )
    return distribution


def _log_prob(site: dict) -> Tensor:
    return site["fn"].log_prob(site["value"])


def log_factors(trace: Trace) -> Tensor:
    """All factors in a model's trace added up, `[..., N]`, as scaled and masked as the program has them.

    Raises:
        ValueError: if the model draws something else than `response`, or has a factor outside the plate over prompts.
    """
    total = torch.zeros(trace.nodes["response"]["value"].shape[:-1], device=trace.nodes["response"]["value"].device)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or name == "response" or site_is_subsample(site):
            continue
        if not site["is_observed"]:
            raise ValueError(
                f"the model draws {name!r} besides 'response': expected one latent site. `LeaveOneOut_ELBO` and `Trace_ELBO` "
                "take any number of them."
            )
        factor = scale_and_mask(_log_prob(site), site["scale"], site["mask"])
        if factor.shape[-1:] != total.shape[-1:]:
            raise ValueError(
                f"factor {name!r} has shape {tuple(factor.shape)}, expected one value for each of {total.shape[-1]} prompts "
                "at the end: put it inside the plate over prompts"
            )
        total = total + factor
    return total

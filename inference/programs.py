"""Densities of any model and any guide at given responses, by running their programs.

A model or a guide is a callable that runs the sample site `response`. What such a program may be is in `response_site`; what it
may not be is refused there, by name.
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
from torch import Tensor, nn

from inference.normalisation import check_log_prob
from inference.response_site import (
    AtResponse,
    check_arguments,
    check_plates,
    check_response_site,
    is_sample,
)
from model import HardConstraintSupport, LikelihoodError, Prompts, ResponseDistribution
from model.common.checks import first_index, instance
from model.common.thread_lock import THREAD_LOCK

Program = Callable[[Prompts], Any]


class Joint(NamedTuple):
    """log p0(x) and, in float64, r(x)/beta at some responses, `[..., N]`, nats; their sum is `log_joint`."""

    log_prior: Tensor
    log_likelihood: Tensor

    @property
    def log_joint(self) -> Tensor:
        return self.log_prior + self.log_likelihood


def run(
    program: Program, prompts: Prompts, response: Tensor | None = None, *, role: str = "program"
) -> Trace:
    """The trace of a program, with `response` at its site if one is given. Bears evidence of -inf.

    A module brings its parameters along, so it runs in an empty scope of Pyro's parameter store, where it can neither meet
    another's parameters nor leave its own behind. A plain function finds its parameters in the store as it is. While a fit runs
    in another thread, this waits for its end.

    Raises:
        ResponseSiteError: if the program has no site `response` that can be drawn from and scored, or draws something else;
            with the role "guide", if it has any other site, such as a factor.
    """
    with THREAD_LOCK, HardConstraintSupport(), parameter_scope(program):
        return trace_at(program, prompts, response, role=role)


def trace_at(
    program: Program, prompts: Prompts, response: Tensor | None = None, *, role: str = "program"
) -> Trace:
    """As `run`, with Pyro's store as it is and evidence of -inf refused: for an objective, inside a step of SVI."""
    check_arguments(program, prompts, role)
    with AtResponse(prompts, None if response is None else lambda _: response):
        trace = poutine.trace(program).get_trace(prompts)
    check_response_site(trace, prompts, role)
    return trace


@contextmanager
def parameter_scope(program: Program) -> Iterator[None]:
    """An empty scope of Pyro's parameter store, if the program is a module; the store as it is, if it is not."""
    if isinstance(program, nn.Module):
        with THREAD_LOCK, pyro.get_param_store().scope():
            yield
    else:
        yield


def joint_at(model: Program, prompts: Prompts, response: Tensor) -> Joint:
    """The model's density at `response` `[..., N, T]`: the sample site, and all its factors added up.

    Raises:
        NotANumberError: if the prior's log-probability is NaN.
        LikelihoodError: if a factor is NaN or +inf.
        ResponseSiteError: if the program is not of one response to each prompt.
    """
    trace = run(model, prompts, instance("response", response, Tensor), role="model")
    return Joint(
        check_log_prob(_log_prob(trace.nodes["response"]), model, "model"), log_factors(trace)
    )


def log_likelihood_at(model: Program, prompts: Prompts, response: Tensor) -> Tensor:
    """All factors of a model added up, r(x)/beta, `[..., N]`, nats, without the cost of scoring `response` under the prior."""
    return log_factors(run(model, prompts, instance("response", response, Tensor), role="model"))


def log_guide_at(guide: Program, prompts: Prompts, response: Tensor) -> Tensor:
    """log q(response | prompt), `[..., N]`, nats, with gradient.

    Raises:
        NotANumberError: with the guide's name, if one is NaN.
        ResponseSiteError: if the guide has another site, a factor for example, besides.
    """
    trace = run(guide, prompts, instance("response", response, Tensor), role="guide")
    return check_log_prob(_log_prob(trace.nodes["response"]), guide, "guide")


def response_distribution(
    program: Program, prompts: Prompts, *, role: str = "program"
) -> TorchDistribution:
    """The distribution at the `response` site of a model or a guide, batch shape `[N]`."""
    return run(program, prompts, role=role).nodes["response"]["fn"]


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
    """All factors in a model's trace added up, `[..., N]`, float64, as scaled and masked as the program has them.

    Raises:
        LikelihoodError: if a factor is NaN or +inf.
        ValueError: if the model has a factor that is not one value for each prompt.
    """
    response = trace.nodes["response"]["value"]
    total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
    for name, site in trace.nodes.items():
        if name == "response" or not is_sample(site):
            continue
        check_plates(name, site)
        factor = scale_and_mask(_log_prob(site), site["scale"], site["mask"])
        if factor.shape[-1:] != total.shape[-1:] or not _expands_to(factor.shape, total.shape):
            raise ValueError(
                f"factor {name!r} has shape {tuple(factor.shape)}, expected one value for each of {total.shape[-1]} prompts "
                "at the end: put it inside the plate over prompts"
            )
        if (where := first_index(factor.isnan() | factor.isposinf())) is not None:
            raise LikelihoodError(
                f"factor {name!r} is {factor[where].item()} at index {where}, expected finite numbers, or -inf for an "
                f"impossible response. A reward in {factor.dtype} over a small beta may overflow: widen it to float64 first"
            )
        total = total + factor
    return total


def _expands_to(shape: torch.Size, wide: torch.Size) -> bool:
    """Whether a tensor of this shape can be added to one of the other without making it larger."""
    sizes = zip(reversed(shape), reversed(wide), strict=False)
    return len(shape) <= len(wide) and all(size in (1, most) for size, most in sizes)

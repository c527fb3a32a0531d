"""Densities of a model or a guide at given responses, by running the program, checked."""

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

from inference.estimate import NotANumberError
from inference.response_site import (
    ResponseValue,
    check_arguments,
    check_plates,
    check_response_site,
    is_sample,
)
from model import HardConstraintSupport, LikelihoodError, Prompts, ResponseDistribution
from model.common.checks import first_index, instance
from model.common.devices import HALF
from model.common.thread_lock import THREAD_LOCK

Program = Callable[[Prompts], Any]
"""A Pyro program over prompts with a sample site `response`: a model or a guide."""
TOLERANCE = 1e-3
"""Largest distance of a sum of probabilities to 1. Rounding in float32 is below 1e-5."""
HALF_TOLERANCE = 0.05
"""The same in half precision, which rounds a prefix differently in another batch."""


class NotNormalisedError(ValueError):
    """The probabilities of all responses do not sum to 1."""


class Joint(NamedTuple):
    """log p0(x) and the log likelihood of responses, `[..., N]`, nats, the latter in float64."""

    log_prior: Tensor
    log_likelihood: Tensor

    @property
    def log_joint(self) -> Tensor:
        """log p0(x) + log likelihood, `[..., N]`, nats."""
        return self.log_prior + self.log_likelihood


def run(
    program: Program, prompts: Prompts, response: Tensor | None = None, *, role: str = "program"
) -> Trace:
    """Trace of a program, with `response` at its site if a response is passed.

    Supports hard constraints (factors of -inf). A module runs in an empty scope of Pyro's parameter
    store, because modules hold their own parameters; a plain function finds its parameters in the
    store. Waits for the end of a fit in another thread.

    Raises:
        ResponseSiteError: if the program has no site `response` to draw from and score, or has
            another latent site. A guide may have no other site at all.
    """
    with THREAD_LOCK, HardConstraintSupport(), parameter_scope(program):
        return trace_at(program, prompts, response, role=role)


def trace_at(
    program: Program, prompts: Prompts, response: Tensor | None = None, *, role: str = "program"
) -> Trace:
    """Trace of a program inside a step of SVI: in the current store, hard constraints refused."""
    check_arguments(program, prompts, role)
    with ResponseValue(prompts, None if response is None else lambda _: response):
        trace = poutine.trace(program).get_trace(prompts)
    check_response_site(trace, prompts, role)
    return trace


@contextmanager
def parameter_scope(program: Program) -> Iterator[None]:
    """Enter an empty scope of Pyro's parameter store if the program is a module."""
    if isinstance(program, nn.Module):
        with THREAD_LOCK, pyro.get_param_store().scope():
            yield
    else:
        yield


def joint_at(model: Program, prompts: Prompts, response: Tensor) -> Joint:
    """log p0 and the log likelihood of a model at `response` `[..., N, T]`.

    Raises:
        NotANumberError: if the prior's log probability is NaN.
        LikelihoodError: if a factor is NaN or +inf.
    """
    trace = run(model, prompts, instance("response", response, Tensor), role="model")
    log_prior = check_log_prob(_log_prob(trace.nodes["response"]), model, "model")
    return Joint(log_prior, log_factors(trace))


def log_likelihood_at(model: Program, prompts: Prompts, response: Tensor) -> Tensor:
    """Log likelihood of `response` `[..., N, T]`, `[..., N]`, nats; the prior is not scored."""
    return log_factors(run(model, prompts, instance("response", response, Tensor), role="model"))


def log_guide_at(guide: Program, prompts: Prompts, response: Tensor) -> Tensor:
    """log q of `response` `[..., N, T]` under a guide, `[..., N]`, nats, with gradient.

    Raises:
        NotANumberError: if a log probability is NaN.
        ResponseSiteError: if the guide has another site, such as a factor.
    """
    trace = run(guide, prompts, instance("response", response, Tensor), role="guide")
    return check_log_prob(_log_prob(trace.nodes["response"]), guide, "guide")


def response_distribution(
    program: Program, prompts: Prompts, *, role: str = "program"
) -> TorchDistribution:
    """Distribution at the site `response` of a model or a guide, batch shape `[N]`."""
    return run(program, prompts, role=role).nodes["response"]["fn"]


def sample_and_log_prob(distribution: TorchDistribution, num_samples: int) -> tuple[Tensor, Tensor]:
    """Draws `[K, N, T]`, and their log probabilities, `[K, N]`, nats, float64, without gradient.

    An autoregressive distribution scores its draws while it makes them.
    """
    shape = torch.Size([num_samples])
    if isinstance(distribution, ResponseDistribution):
        return distribution.sample_and_log_prob(shape)
    with torch.no_grad():
        response = distribution.sample(shape)
        return response, distribution.log_prob(response).double()


def autoregressive(distribution: TorchDistribution) -> ResponseDistribution:
    """The distribution, checked to be autoregressive."""
    why = (
        "this algorithm goes token by token. `LeaveOneOut_ELBO`, importance and rejection sampling "
        "take any distribution"
    )
    return instance("the distribution at 'response'", distribution, ResponseDistribution, why=why)


def _log_prob(site: dict) -> Tensor:
    return site["fn"].log_prob(site["value"])


def log_factors(trace: Trace) -> Tensor:
    """Sum of all factors in a model's trace, `[..., N]`, float64; see `factors_of`."""
    return factors_of(trace)[0]


def factors_of(trace: Trace) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of all factors in a model's trace, `[..., N]`, float64, and the factors by name.

    With the scales and masks of the factors, which broadcast to the sum.

    Raises:
        LikelihoodError: if a factor is NaN or +inf.
        ValueError: if a factor does not have one value for each prompt.
    """
    response = trace.nodes["response"]["value"]
    total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
    factors = {}
    for name, site in trace.nodes.items():
        if name == "response" or not is_sample(site):
            continue
        check_plates(name, site)
        factor = scale_and_mask(_log_prob(site), site["scale"], site["mask"])
        shape = (1,) * (total.dim() - factor.dim()) + factor.shape
        sizes = zip(shape[:-1], total.shape[:-1], strict=False)
        fits = len(shape) == total.dim() and all(size in (1, most) for size, most in sizes)
        if not fits or factor.shape[-1:] != total.shape[-1:]:
            raise ValueError(
                f"factor {name!r} has shape {tuple(factor.shape)}, expected one value for each of "
                f"{total.shape[-1]} prompts at the end: put it inside the plate over prompts"
            )
        factors[name] = factor
        total = total + factor
    if first_index(_no_number(total)) is not None:  # one wait for all factors
        for name, factor in factors.items():
            if (where := first_index(_no_number(factor))) is not None:
                raise LikelihoodError(
                    f"factor {name!r} is {factor[where].item()} at index {where}, expected finite "
                    "numbers, or -inf for an impossible response. A reward in "
                    f"{factor.dtype} over a small beta may overflow: widen it to float64 first"
                )
    return total, factors


def _no_number(log_prob: Tensor) -> Tensor:
    return log_prob.isnan() | log_prob.isposinf()


def check_log_prob(log_prob: Tensor, program: object, role: str) -> Tensor:
    """Log probabilities of responses under a program, unchanged.

    Raises:
        NotANumberError: if one is NaN or +inf, with the names of the program and of a parameter
            that is NaN or infinite.
    """
    bad = _no_number(log_prob)
    if (where := first_index(bad)) is not None:
        raise NotANumberError(
            f"the {role} {name_of(program)} has log-probability {log_prob[where].item()} at index "
            f"{where}, and no number at {int(bad.sum())} of {bad.numel()} responses: "
            f"{_reason(program)}"
        )
    return log_prob


def check_normalised(log_prob: Tensor, name: str, *, is_half: bool = False) -> Tensor:
    """Log probabilities of all responses, `[S, N]`, nats, in float64.

    With `is_half`, the sum may be that of a network in half precision, and is divided out.

    Raises:
        NotNormalisedError: if the probabilities of a prompt do not sum to 1, or are NaN.
    """
    is_half, log_prob = is_half or log_prob.dtype in HALF, log_prob.double()
    tolerance = HALF_TOLERANCE if is_half else TOLERANCE
    for prompt, total in enumerate(log_prob.exp().sum(0).tolist()):
        if not abs(total - 1) <= tolerance:
            raise NotNormalisedError(
                f"the probabilities of {name} over all {len(log_prob)} responses to prompt "
                f"{prompt} sum to {total:.6g}, expected 1: they are NaN, or of another set of "
                "responses (vocabulary, end ids, length), or of no distribution"
            )
    return log_prob.log_softmax(0) if is_half else log_prob


def name_of(program: object) -> str:
    """Name of a model or a guide, for errors."""
    return getattr(program, "__qualname__", type(program).__name__)


def _reason(program: object) -> str:
    parameters = program.named_parameters() if isinstance(program, nn.Module) else ()
    bad = [name for name, parameter in parameters if not bool(parameter.isfinite().all())]
    if bad:
        return (
            f"{len(bad)} of its parameters are NaN or infinite, the first of them {bad[0]}. "
            "Go back to the last good ones"
        )
    return "its parameters are NaN, or its network overflows in a half-precision type: try float32"

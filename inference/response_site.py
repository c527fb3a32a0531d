"""Checks of the site `response`: one latent site, besides factors in the model alone.

    log joint  = log p0(x) + sum_j scale_j mask_j log f_j(x)       the model
    log q      = log q(x)                                          the guide

A scale or a mask on the site itself is refused: p0^s and q^s are no distributions, so draws,
weights and log Z would have different targets. Use instead:

| instead of | use |
|---|---|
| KL annealing: scale s on the site in model and guide | model at `beta` times s, loss times s |
| scale s on everything, in model and guide | the loss, or the learning rate, times s |
| a mask, or a plate that subsamples the prompts | the chosen prompts, passed to the program |

`LeaveOneOut_ELBO` and Pyro's objectives take scales, masks and plates as Pyro does.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from pyro.distributions import MaskedDistribution, TorchDistribution
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from model import Prompts, ResponseDistribution, ResponseSpace
from model.common.checks import function, instance
from model.common.thread_lock import THREAD_LOCK
from model.prior.drawn_responses import known_lengths
from model.prior.prompts import check_prompts

PAIRED = "`LeaveOneOut_ELBO` and `Trace_ELBO`"


class ResponseSiteError(ValueError):
    """The site `response` of a program cannot be drawn from and scored."""


class ScaledSiteError(ResponseSiteError):
    """The site `response` is scaled, masked or subsampled."""


class ResponseValue(Messenger):
    """Handler that sets the value at the site `response` of programs inside its context.

    Args:
        prompts: N prompts.
        value_of: function of the distribution at the site that returns responses `[..., N, T]`;
            None leaves the draw to the program.

    Attributes:
        distribution: distribution at the site, once a program has reached the site.
    """

    def __init__(
        self, prompts: Prompts, value_of: Callable[[TorchDistribution], Tensor] | None = None
    ) -> None:
        super().__init__()
        check_prompts(prompts)
        self.prompts = prompts
        self.value_of = value_of
        self.distribution: TorchDistribution | None = None

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] != "response":
            return
        if msg["is_observed"] or msg["value"] is not None:
            raise ResponseSiteError(
                "the site 'response' has its value from inside the program, by `obs`, "
                "`poutine.condition` or `poutine.replay`: expected a latent site, at which "
                "responses can be drawn and scored"
            )
        _check_site(msg, len(self.prompts))
        self.distribution = msg["fn"]
        if self.value_of is not None:
            with torch.no_grad():
                value = self.value_of(msg["fn"])
            check_value("response", msg["fn"], value)
            msg["value"], msg["done"] = value, True


class SameResponses(Messenger):
    """Refuses programs with different response spaces inside one context.

    With other end ids or another padding, the guide's draws would be scored as other responses.
    Pyro's handlers belong to the process: a second thread waits for the end of the context.
    """

    def __init__(self) -> None:
        super().__init__()
        self.space: ResponseSpace | None = None

    def __enter__(self) -> Self:
        THREAD_LOCK.acquire()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            THREAD_LOCK.release()

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] == "response" and isinstance(msg["fn"], ResponseDistribution):
            self.space = msg["fn"].space if self.space is None else self.space
            if (difference := self.space.difference(msg["fn"].space)) is not None:
                raise ResponseSiteError(
                    f"guide and model have different responses, with {difference}: expected the "
                    "same. Build the guide from the model's own prior"
                )


def check_arguments(program: object, prompts: object, role: str = "program") -> None:
    """Check that a program and prompts can be run: a `TypeError` or a `ValueError` otherwise."""
    function(f"the {role}", program, why="a Pyro program over prompts")
    check_prompts(prompts)


def check_response_site(trace: Trace, prompts: Prompts, role: str = "program") -> dict[str, Any]:
    """The site `response` in the trace of a program: the only latent site, of N responses."""
    sites = {name: site for name, site in trace.nodes.items() if is_sample(site)}
    if "response" not in sites:
        raise ResponseSiteError(
            f"the {role} has no sample site 'response', got {sorted(sites) or 'none'}: expected "
            "one of that name, that no `poutine.block` hides and no `poutine.scope` renames"
        )
    others = [name for name in sites if name != "response"]
    for name in others:
        if not sites[name]["is_observed"]:
            raise ResponseSiteError(
                f"the {role} draws {name!r} besides 'response': expected one latent site. {PAIRED} "
                "take any number of latent sites"
            )
    if role == "guide" and others:
        fault = f"the guide has the sites {others} besides 'response'"
        raise ResponseSiteError(f"{fault}, expected no other: with a factor q is not normalised")
    _check_site(sites["response"], len(prompts))
    return sites["response"]


def is_sample(site: dict[str, Any]) -> bool:
    """True if a site draws or observes; not for a plate's indices or `pyro.deterministic`."""
    return (
        site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic", False)
    )


def check_plates(name: str, site: dict[str, Any]) -> None:
    """Refuse a site in a plate that subsamples, or in another plate than that over prompts."""
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size != frame.size:
            raise ScaledSiteError(
                f"the site {name!r} is inside the plate {frame.name!r}, which takes {frame.size} "
                f"of {frame.full_size} at a time: each run of the program would have other "
                "prompts. Pass the chosen prompts, as `fit(prompts_per_step=...)` does; "
                f"{PAIRED} take such plates"
            )
        if frame.vectorized and frame.dim != -1:
            raise ResponseSiteError(
                f"the site {name!r} is inside the plate {frame.name!r} at dim {frame.dim}, "
                "expected the one over prompts, at dim -1. Sum over the plate inside a factor; "
                f"{PAIRED} take other plates"
            )


def _check_site(site: dict[str, Any], num_prompts: int) -> None:
    check_plates("response", site)
    scale, mask, distribution = site["scale"], site["mask"], site["fn"]
    if bool((torch.as_tensor(scale) != 1).any()):
        raise ScaledSiteError(
            f"the site 'response' is scaled by {scale} (`poutine.scale`): draws, weights and log Z "
            "would have different targets. For KL annealing, s on the site in model and guide, use "
            "the model at `beta` times s; put a weight of everything on the loss. "
            f"{PAIRED} take scales, and factors may have them"
        )
    masked = mask is not None and not bool(torch.as_tensor(mask).all())
    if masked or isinstance(distribution, MaskedDistribution):
        raise ScaledSiteError(
            "the site 'response' is masked (`poutine.mask`): a prompt whose responses do not count "
            f"has no posterior. Leave the prompt out. {PAIRED} take masks, and factors may have "
            "them"
        )
    if distribution.batch_shape != (num_prompts,) or len(distribution.event_shape) != 1:
        raise ResponseSiteError(
            f"the site 'response' has batch shape {tuple(distribution.batch_shape)} and event "
            f"shape {tuple(distribution.event_shape)}, expected ({num_prompts},) and (T,): a row "
            f"of T token ids for each of {num_prompts} prompts"
        )


def check_value(name: str, distribution: TorchDistribution, value: Tensor) -> None:
    """Refuse a value other than token ids `[..., N, T]` of the distribution's vocabulary."""
    shape = instance(name, value, Tensor).shape
    rows = (1, *distribution.batch_shape)
    if len(shape) < 2 or shape[-2] not in rows or shape[-1:] != distribution.event_shape:
        raise ResponseSiteError(
            f"{name} has shape {tuple(shape)}, expected "
            f"{('...', *distribution.batch_shape, *distribution.event_shape)}, as at the site "
            "'response' of this program"
        )
    if not isinstance(distribution, ResponseDistribution):
        return
    if known_lengths(value, distribution.space) is not None:  # draws, whose ids need no wait
        return
    size = distribution.space.vocab_size
    whole = not (value.is_floating_point() or value.is_complex())
    if not whole or bool(((value < 0) | (value >= size)).any()):
        expected = f"token ids of the program's own vocabulary, whole numbers from 0 to {size - 1}"
        raise ResponseSiteError(f"{name} has values of type {value.dtype}, expected {expected}")

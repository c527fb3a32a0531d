"""The site `response` of a program: what algorithms that go by its density ask of it, and the refusal of everything else.

    log joint  = log p0(x) + sum_j scale_j mask_j log f_j(x)       the model: one latent site, and factors
    log q      = log q(x)                                          the guide: one latent site, and nothing else

A factor counts as scaled and masked as the program has it. A scale or a mask on the site itself is refused: p0^s and q^s are no
distributions, so that draws of the site, weights and log Z would be of different targets. What is meant by a scale has a name:

    s on the site in model and guide (KL annealing)     the posterior at `beta` times s, its loss times s
    s on everything, in model and guide                 the loss, or the learning rate, times s
    a mask, a plate that takes some prompts of many     those prompts, passed to the program

`LeaveOneOut_ELBO` and Pyro's objectives run model and guide as a pair, and take scales, masks and plates as Pyro has them.
"""

from __future__ import annotations

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

PAIRED = "`LeaveOneOut_ELBO` and `Trace_ELBO`"


class ResponseSiteError(ValueError):
    """The site `response` of a program is none that can be drawn from and scored."""


class ScaledSiteError(ResponseSiteError):
    """The site `response` is scaled, masked or subsampled."""


class AtResponse(Messenger):
    """Chooses the value at the site `response` of the programs that run inside this context.

    Args:
        prompts: N prompts.
        value_of: takes the distribution at the site, returns responses `[..., N, T]`; None leaves the draw to the program.

    Attributes:
        distribution: that of the site, once a program has come to it.
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
                "the site 'response' has its value from inside the program, by `obs`, `poutine.condition` or `poutine.replay`: "
                "expected a latent site, at which responses can be drawn and scored"
            )
        _check_site(msg, len(self.prompts))
        self.distribution = msg["fn"]
        if self.value_of is not None:
            with torch.no_grad():
                value = self.value_of(msg["fn"])
            check_value("response", msg["fn"], value)
            msg["value"], msg["done"] = value, True


class SameResponses(Messenger):
    """Inside this context the responses of all programs are of one kind; else a `ResponseSiteError`.

    For what brings a guide and a model together: with other end ids or another padding, the guide's draws would be scored as
    other responses than they are. One thread at a time: Pyro's handlers are those of the whole process.
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
                    f"guide and model have different responses, with {difference}: expected the same. Build the guide from the "
                    "model's own prior"
                )


def check_arguments(program: object, prompts: object, role: str = "program") -> None:
    """Refuse what cannot be run: something else than a program, or than prompts.

    Raises:
        TypeError: if the program is not callable, or the prompts are no `Prompts`.
        ValueError: if there are no prompts.
    """
    function(f"the {role}", program, why="a Pyro program over prompts")
    check_prompts(prompts)


def check_prompts(prompts: object) -> None:
    """Refuse what is no `Prompts`, by a `TypeError`, and no prompts at all, by a `ValueError`."""
    if not len(
        instance("prompts", prompts, Prompts, why="`LanguageModel.encode` makes them of texts")
    ):
        raise ValueError("there are no prompts, expected at least one")


def check_response_site(trace: Trace, prompts: Prompts, role: str = "program") -> dict[str, Any]:
    """The site `response` in the trace of a program.

    Raises:
        ResponseSiteError: if there is none, it is no response to each of N prompts, or something else is drawn besides.
        ScaledSiteError: if it is scaled, masked or subsampled.
    """
    sites = {name: site for name, site in trace.nodes.items() if is_sample(site)}
    if "response" not in sites:
        raise ResponseSiteError(
            f"the {role} has no sample site 'response', got {sorted(sites) or 'none'}: expected one of that name, that no "
            "`poutine.block` hides and no `poutine.scope` renames"
        )
    for name, site in sites.items():
        if name != "response" and not site["is_observed"]:
            raise ResponseSiteError(
                f"the {role} draws {name!r} besides 'response': expected one latent site. {PAIRED} take any number of them"
            )
    others = [name for name in sites if name != "response"]
    if role == "guide" and others:
        raise ResponseSiteError(
            f"the guide has the sites {others} besides 'response', expected no other: with a factor q is not normalised"
        )
    _check_site(sites["response"], len(prompts))
    return sites["response"]


def is_sample(site: dict[str, Any]) -> bool:
    """Whether a site draws or observes something: neither a plate's indices nor `pyro.deterministic`."""
    return (
        site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic", False)
    )


def check_plates(name: str, site: dict[str, Any]) -> None:
    """Refuse plates that take some of many, which are others at each run, and plates besides that over prompts."""
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size != frame.size:
            raise ScaledSiteError(
                f"the site {name!r} is inside the plate {frame.name!r}, which takes {frame.size} of {frame.full_size} at a "
                "time: each run of the program would be about other prompts. Pass those prompts themselves, as "
                f"`fit(prompts_per_step=...)` does; {PAIRED} take such plates"
            )
        if frame.vectorized and frame.dim != -1:
            raise ResponseSiteError(
                f"the site {name!r} is inside the plate {frame.name!r} at dim {frame.dim}, expected the one over prompts, at "
                f"dim -1. Sum over it inside a factor; {PAIRED} take other plates"
            )


def _check_site(site: dict[str, Any], num_prompts: int) -> None:
    """Refuse a site that is not, as it stands, one response to each of N prompts."""
    check_plates("response", site)
    scale, mask, distribution = site["scale"], site["mask"], site["fn"]
    if bool((torch.as_tensor(scale) != 1).any()):
        raise ScaledSiteError(
            f"the site 'response' is scaled by {scale} (`poutine.scale`): under a power of it, draws, weights and log Z would "
            "be of different targets. KL annealing, s on the site in model and guide, is the model at `beta` times s; a weight "
            f"of everything belongs on the loss. {PAIRED} take scales, and factors may have them"
        )
    masked = mask is not None and not bool(torch.as_tensor(mask).all())
    if masked or isinstance(distribution, MaskedDistribution):
        raise ScaledSiteError(
            "the site 'response' is masked (`poutine.mask`): a prompt whose responses do not count has no posterior. Leave the "
            f"prompt out. {PAIRED} take masks, and factors may have them"
        )
    if distribution.batch_shape != (num_prompts,) or len(distribution.event_shape) != 1:
        raise ResponseSiteError(
            f"the site 'response' has batch shape {tuple(distribution.batch_shape)} and event shape "
            f"{tuple(distribution.event_shape)}, expected ({num_prompts},) and (T,): a row of T token ids for each of "
            f"{num_prompts} prompts"
        )


def check_value(name: str, distribution: TorchDistribution, value: Tensor) -> None:
    """Refuse what cannot be scored at a site `response`.

    Raises:
        TypeError: if the value is no tensor.
        ResponseSiteError: if it has another shape than `[..., N, T]`, or no token ids of the distribution's vocabulary.
    """
    instance(name, value, Tensor)
    if (
        value.shape[-1:] != distribution.event_shape
        or value.dim() < 2
        or value.shape[-2] not in (1, *distribution.batch_shape)
    ):
        raise ResponseSiteError(
            f"{name} has shape {tuple(value.shape)}, expected "
            f"{('...', *distribution.batch_shape, *distribution.event_shape)}, as at the site 'response' of this program"
        )
    if not isinstance(distribution, ResponseDistribution):
        return
    size = distribution.space.vocab_size
    if (
        value.is_floating_point()
        or value.is_complex()
        or bool(((value < 0) | (value >= size)).any())
    ):
        raise ResponseSiteError(
            f"{name} has values of type {value.dtype}, expected token ids of the program's own vocabulary, "
            f"whole numbers from 0 to {size - 1}"
        )

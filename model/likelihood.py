"""Rewards and factors, the two parts of the likelihood exp(r(x)/beta) prod_j f_j(x).

Both are callables, `(prompts, response) -> [..., N]`. A reward returns r(x), which the model
divides by beta; a factor returns log f_j(x) in nats. A value of -inf rules a response out.

A reward or a factor that does not apply to every prompt has a method `applies(prompts) -> [N]`, and
returns NaN for the other prompts. There the likelihood is without the reward or factor.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Number
from typing import Protocol

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from model.common.checks import finite, first_index, function, instance
from model.common.texts import quoted
from model.prior.prompts import Prompts, check_prompts
from model.prior.response_space import OtherLanguageModelError, ResponseSpace


class Reward(Protocol):
    """A reward r: any callable with this signature."""

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of each response, `[..., N]` for responses `[..., N, T]`."""


class Factor(Protocol):
    """A factor f of the likelihood: any callable with this signature."""

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """log f of each response, nats, `[..., N]` for responses `[..., N, T]`."""


class LikelihoodError(ValueError):
    """A value of a reward or a factor cannot enter the log likelihood."""


def check_answers(
    column: str, answers: Iterable[object], content: Callable[[str], str] = str.strip
) -> None:
    """Refuse reference answers other than a text, a number or None, and texts without content.

    A missing cell of CSV is an empty text, which an empty response alone would match.
    """
    for answer in answers:
        fault = f"column {column!r} has the reference answer {quoted(answer)}"
        if not isinstance(answer, str | Number | None):
            kind = type(answer).__name__
            expected = "expected a text, a number or None: take the text out of a list"
            raise LikelihoodError(f"{fault} ({kind}), {expected}")
        if isinstance(answer, str) and not content(answer):
            fix = "leave out rows without an answer, or write null in JSON"
            raise LikelihoodError(f"{fault}, whose content is empty: {fix}")


class OtherBetaError(ValueError):
    """A factor that was made for one beta meets a model of another beta."""


class ImpossibleResponseError(ValueError):
    """An algorithm drew a response of log likelihood -inf, and has no finite answer."""


class HardConstraintSupport(Messenger):
    """Context in which a log likelihood may be -inf; outside, -inf is an error.

    For algorithms that only weigh responses, such as rejection sampling. The gradient of a mean of
    log-weights, as in an objective of KL(q || p*), would be NaN here.
    """


ARGUMENTS = "prompts and responses. `TextReward(f, prior)` makes one of a function of texts"
"""Arguments of a reward or a factor, for errors."""


def parts_of(piece: object) -> Iterator[object]:
    """A reward or a factor, and all rewards and factors inside, by its `components()` if any."""
    yield piece
    for part in getattr(piece, "components", tuple)():
        yield from parts_of(part)


def check_reward(label: str, reward: object) -> None:
    """Refuse a class, and a factor, which beta must not divide, alone or inside a reward."""
    function(label, reward, takes=2, why=ARGUMENTS)
    for part in parts_of(reward):
        if getattr(part, "unit", None) == "nat":
            raise ValueError(
                f"{label} is or contains a {type(part).__name__}, a factor in nats, which beta "
                "does not divide: pass it in `factors={...}`"
            )


def check_made_for(label: str, piece: object, space: ResponseSpace) -> None:
    """Refuse an object whose `language_model` has other responses; a plain function passes."""
    for part in parts_of(piece):
        other = getattr(getattr(part, "language_model", None), "space", None)
        if isinstance(other, ResponseSpace) and (difference := space.difference(other)) is not None:
            fault = f"made for another model than the prior: they have {difference}"
            raise OtherLanguageModelError(f"{label} was {fault}")


def check_made_for_beta(label: str, factor: object, beta: float | Mapping[str, float]) -> None:
    """Refuse a factor with a part of another `beta` than the model, by an `OtherBetaError`."""
    betas = list(beta.values()) if isinstance(beta, Mapping) else [beta]
    for part in parts_of(factor):
        other = getattr(part, "beta", None)
        if isinstance(other, int | float) and not all(math.isclose(other, each) for each in betas):
            raise OtherBetaError(
                f"{label} was made for beta {other:g}, and the model has beta "
                f"{', '.join(f'{each:g}' for each in betas)}: make it for the beta of the model"
            )


def for_each_prompt(prompts: Prompts, response: Tensor) -> Tensor:
    """Responses `[..., N, T]`, expanded from `[..., 1, T]`; a `ValueError` for other shapes."""
    num, shape = len(check_prompts(prompts)), instance("response", response, Tensor).shape
    if len(shape) < 2 or shape[-2] not in (1, num):
        raise ValueError(f"response has shape {tuple(shape)}, expected (..., {num}, T)")
    return response.expand(*shape[:-2], num, -1)


def is_partial(piece: object) -> bool:
    """True for a reward or a factor that may not apply to some prompts."""
    return hasattr(piece, "applies")


def applies_to(label: str, piece: object, prompts: Prompts) -> Tensor:
    """True for the prompts to which a reward or factor applies, `[N]`; by default all."""
    num_prompts = len(check_prompts(prompts))
    everywhere = torch.ones(num_prompts, dtype=torch.bool, device=prompts.ids.device)
    if not is_partial(piece):
        return everywhere
    applies = piece.applies(prompts)  # type: ignore[attr-defined]
    if getattr(applies, "shape", None) != everywhere.shape or applies.dtype != torch.bool:
        got = f"`applies` of {label} returned {quoted(applies)}"
        raise LikelihoodError(f"{got}, expected {len(prompts)} booleans, one for each prompt")
    return applies.to(everywhere.device)


def any_applies(rewards: Mapping[str, Reward], prompts: Prompts) -> Tensor:
    """True for the prompts to which one of some rewards applies, `[N]`; all without rewards."""
    each = [applies_to(f"reward {name!r}", reward, prompts) for name, reward in rewards.items()]
    return torch.stack(each or [applies_to("no reward", None, prompts)]).any(0)


def check_values(
    label: str,
    value: object,
    shape: torch.Size,
    applies: Tensor | None = None,
    divisor: float | Tensor = 1.0,
) -> Tensor:
    """The values `[..., N]` that a reward or a factor returned, checked, in float64.

    With `applies`, `[N]`, the values are NaN exactly where it is False.

    Raises:
        LikelihoodError: for NaN, +inf, complex numbers, a wrong shape or a wrong type, or values
            that overflow when divided by `divisor`, one number or `[N]`.
        ImpossibleResponseError: for -inf outside `HardConstraintSupport`.
    """
    if not isinstance(value, Tensor) or value.shape != shape:
        kind = type(value).__name__
        shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind
        raise LikelihoodError(
            f"{label} returned {shown}, expected a tensor of shape {tuple(shape)}: one value per "
            "particle and prompt. If it scores a list of texts, wrap it in `TextReward`."
        )
    if value.is_complex() or value.layout != torch.strided:
        kind = f"{value.dtype}, {value.layout}"
        raise LikelihoodError(f"{label} returned {kind}, expected real numbers")
    absent = torch.zeros_like(value, dtype=torch.bool) if applies is None else ~applies
    supported = any(isinstance(handler, HardConstraintSupport) for handler in _PYRO_STACK)
    extra = absent & ~value.isnan()
    no_number = value.isnan() & ~absent | value.isposinf()
    impossible = torch.zeros_like(absent) if supported else value.isneginf()
    wide = value.double()
    overflows = wide.isfinite() & ~(wide / divisor).isfinite()
    if not bool((extra | no_number | impossible | overflows).any()):  # one read of the device
        return wide
    if (where := first_index(extra)) is not None:
        got = f"{label} returned {value[where].item()} at index {where}"
        raise LikelihoodError(f"{got}, a prompt to which it does not apply, expected NaN")
    if (where := first_index(no_number)) is not None:
        raise LikelihoodError(
            f"{label} returned {value[where].item()} at index {where}, expected a finite number, "
            "or -inf for an impossible response. Check it on the text of that response."
        )
    if (where := first_index(impossible)) is not None:
        raise ImpossibleResponseError(
            f"{label} is -inf at index {where}: the guide drew a response that the posterior rules "
            "out, so KL(q || p*) is infinite. Use a finite penalty, `inference.anneal`, or an "
            "algorithm for constraints: forward KL, rejection, importance sampling, enumeration."
        )
    check_product(label, wide, wide / divisor, "divided by beta")
    return wide


def check_product(label: str, value: Tensor, product: Tensor, operation: str) -> Tensor:
    """A value times or divided by a number; a `LikelihoodError` if the product overflows."""
    if (where := first_index(value.isfinite() & ~product.isfinite())) is not None:
        values = f"{value[where].item():g} at index {where} and {product[where].item()} {operation}"
        raise LikelihoodError(f"{label} is {values}, expected a finite number. Scale the reward")
    return product


def bound_at(label: str, piece: object, prompts: Prompts) -> float | Tensor | None:
    """The bound at each prompt, `[N]`, 0 where the reward or factor does not apply; or None.

    One number if the reward or factor applies to all prompts. A method `bound_at(prompts)` of the
    reward has precedence.
    """
    if hasattr(piece, "bound_at"):
        return piece.bound_at(prompts)
    if (bound := upper_bound_of(label, piece)) is None:
        return None
    if not is_partial(piece):
        return bound
    applies = applies_to(label, piece, prompts)
    return bound if bool(applies.all()) else applies.double() * bound


def upper_bound_of(label: str, piece: object) -> float | None:
    """The stated bound of a reward or a factor; None without one. Refuses infinite bounds."""
    bound = getattr(piece, "upper_bound", None)
    if bound is None:
        return None
    return finite(f"the `upper_bound` of {label}", bound, why="or None if unknown")

"""Rewards and factors, the two parts of the likelihood exp(r(x)/beta) prod_j f_j(x).

Both are callables, `(prompts, response) -> [..., N]`. A reward returns r(x), which the model
divides by beta; a factor returns log f_j(x) in nats. A value of -inf rules a response out.

A reward or a factor that does not apply to every prompt has a method `applies(prompts) -> [N]`, and
returns NaN for the other prompts. There the likelihood is without the reward or factor.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from model.common import ranks
from model.common.checks import finite, first_index, function
from model.common.devices import generator_state, seed_generator
from model.common.provenance import through
from model.common.texts import quoted
from model.prior.division import Block, division
from model.prior.prompts import Prompts
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
    if response.dim() < 2 or response.shape[-2] not in (1, len(prompts)):
        shape, expected = tuple(response.shape), f"(..., {len(prompts)}, T)"
        raise ValueError(f"response has shape {shape}, expected {expected}")
    return response.expand(*response.shape[:-2], len(prompts), -1)


class Values(NamedTuple):
    """Checked values of a reward or a factor.

    Attributes:
        value: `[..., N]`, float64; 0 where the reward or factor does not apply.
        applies: `[N]`, True for the prompts to which the reward or factor applies.
    """

    value: Tensor
    applies: Tensor

    @property
    def missing(self) -> Tensor:
        """The values with NaN where the reward or factor does not apply, `[..., N]`."""
        return self.value.masked_fill(~self.applies, torch.nan)


def values_of(
    label: str,
    piece: Reward | Factor,
    prompts: Prompts,
    response: Tensor,
    divisor: float | Tensor = 1.0,
) -> Values:
    """Checked values of a reward or a factor at responses `[..., N, T]`.

    Inside `divided` each rank computes the values of its own responses.

    Args:
        label: reward or factor in words, for errors.
        piece: the reward or factor.
        prompts: N prompts.
        response: responses.
        divisor: beta, one number or `[N]`, by which the values are divided next: checked too.
    """
    if (shared := division()) is None:
        return _values_of(label, piece, prompts, response, divisor)
    num_prompts = len(prompts)

    def of_ranks(response: Tensor) -> Tensor:
        grid = response.reshape(-1, num_prompts, response.shape[-1])  # [K, N, T]

        def of_block(block: Block) -> tuple[Tensor, ...]:
            whole = block.prompts == slice(None)
            own = prompts if whole else prompts[block.prompts]
            own_divisor = divisor[block.prompts] if isinstance(divisor, Tensor) else divisor
            with ranks.own_stream():
                return (_values_of(label, piece, own, grid[block], own_divisor).missing,)

        (missing,) = shared.compute(of_block, len(grid), num_prompts)
        return missing.reshape(response.shape[:-1])

    missing = through(of_ranks, response)
    absent = missing.isnan()
    return Values(missing.masked_fill(absent, 0.0), ~absent.reshape(-1, num_prompts).all(0))


def _values_of(
    label: str,
    piece: Reward | Factor,
    prompts: Prompts,
    response: Tensor,
    divisor: float | Tensor,
) -> Values:
    value = through(partial(_called, label, piece, prompts), response)
    applies = applies_to(label, piece, prompts)  # after the call, in which a reward may learn
    value = check_values(label, value, response.shape[:-1], applies, divisor)
    return Values(value.masked_fill(~applies, 0.0), applies)


def _called(label: str, piece: Reward | Factor, prompts: Prompts, response: Tensor) -> Tensor:
    """Value of a reward or a factor, refused if it writes to its arguments, which others read.

    Behind a call that drew random numbers on the CPU or on the device of the responses, the
    generator of that device goes on from a seed that follows from its state before the call: a
    reward that seeds the generator would repeat the draws of responses.
    """
    given = [response, prompts.ids, prompts.mask]
    # an array of numpy shares the memory of a tensor on the CPU, and its changes have no version
    before = [tensor.clone() if tensor.is_cpu else _version(tensor) for tensor in given]
    devices = {torch.device("cpu"), response.device}
    generators = {device: generator_state(device) for device in devices}
    value = piece(prompts, response)
    for device, state in generators.items():
        if not np.array_equal(state.numpy(), generator_state(device).numpy()):
            seed_generator(device, zlib.crc32(state.numpy().tobytes()))
    after = [tensor if tensor.is_cpu else _version(tensor) for tensor in given]
    if not all(map(_is_same, before, after)):
        fault = "changed responses or prompts in place"
        raise LikelihoodError(f"{label} {fault}: let it change a copy, as `response.clone()`")
    return value


def _version(tensor: Tensor) -> int:
    """Number of changes in place; tensors of the inference mode count none."""
    return 0 if tensor.is_inference() else tensor._version


def _is_same(before: Tensor | int, after: Tensor | int) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return np.array_equal(before.numpy(force=True), after.numpy(force=True))
    return bool(before == after)


def total_of(values: Sequence[Values], response: Tensor) -> Values:
    """Sum of some values at responses `[..., N, T]`; applies where one of the values does.

    The sum of no values is 0 and applies everywhere.
    """
    total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
    applies = total.new_full(total.shape[-1:], not values, dtype=torch.bool)
    for value, applies_here in values:
        total, applies = total + value, applies | applies_here
    return Values(total, applies)


def is_partial(piece: object) -> bool:
    """True for a reward or a factor that may not apply to some prompts."""
    return hasattr(piece, "applies")


def applies_to(label: str, piece: object, prompts: Prompts) -> Tensor:
    """True for the prompts to which a reward or factor applies, `[N]`; by default all."""
    everywhere = torch.ones(len(prompts), dtype=torch.bool, device=prompts.ids.device)
    if not is_partial(piece):
        return everywhere
    applies = piece.applies(prompts)  # type: ignore[attr-defined]
    if getattr(applies, "shape", None) != everywhere.shape or applies.dtype != torch.bool:
        got = f"`applies` of {label} returned {quoted(applies)}"
        raise LikelihoodError(f"{got}, expected {len(prompts)} booleans, one for each prompt")
    return applies.to(everywhere.device)


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

"""Evidence: a reward r(x), which the model turns into the likelihood factor exp(r(x)/beta).

Evidence is any callable of prompts and responses, `evidence(prompts, response) -> [..., N]`, in units of reward. -inf says that
a response is impossible. `model.rewards` has evidence to choose from, and makes it of a function of texts or of token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from model.checks import finite, first_index, function
from model.prompts import Prompts
from model.response_space import OtherLanguageModelError, ResponseSpace


class Evidence(Protocol):
    """What a callable must do to be evidence."""

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of each response: `[..., N]` for responses `[..., N, T]`."""


@runtime_checkable
class Bounded(Protocol):
    """Evidence, or a function of texts, that knows what it cannot exceed. Rejection sampling needs that.

    Attributes:
        upper_bound: the largest reward there can be; None if it is not known after all.
    """

    upper_bound: float | None


@runtime_checkable
class DependsOnBeta(Protocol):
    """Evidence, or a function of texts, whose r/beta is no reward divided by beta. A model asks for it at its own beta."""

    def at_beta(self, beta: float | Mapping[str, float]) -> Self:
        """The same for a model of this beta; itself, if beta plays no part after all."""


@runtime_checkable
class Composed(Protocol):
    """Evidence that is made of other evidence."""

    def components(self) -> Iterable[Evidence]:
        """The evidence that it is made of."""


def check_evidence(name: object, evidence: object) -> None:
    """Refuse what cannot be called, or is a class of which an object was meant, by a `TypeError` that names it."""
    function(f"evidence {name!r}", evidence, why="of prompts and responses")


def check_made_for(name: str, evidence: Evidence, space: ResponseSpace, *, kind: str = "evidence") -> None:
    """Refuse evidence that was made for a language model with other responses than those of `space`.

    Evidence with a `language_model` says by it whose responses it reads; that of a function alone says nothing.

    Raises:
        OtherLanguageModelError: with the name of the evidence, and what differs.
    """
    for part in evidence.components() if isinstance(evidence, Composed) else ():
        check_made_for(name, part, space, kind=kind)
    made_for = getattr(getattr(evidence, "language_model", None), "space", None)
    if isinstance(made_for, ResponseSpace) and (difference := space.difference(made_for)) is not None:
        raise OtherLanguageModelError(
            f"{kind} {name!r} was made for another language model than the prior: they have {difference}. Make it with the "
            "prior of this model"
        )


Piece = TypeVar("Piece")


def at_beta(evidence: Piece, beta: float | Mapping[str, float]) -> Piece:
    """Evidence, or a function of texts, for a model of this beta: itself, unless it depends on it."""
    return evidence.at_beta(beta) if isinstance(evidence, DependsOnBeta) else evidence


def for_each_prompt(prompts: Prompts, response: Tensor) -> Tensor:
    """Responses `[..., N, T]` from `[..., 1, T]`, a response to all N prompts alike, as Pyro's enumeration hands on.

    Raises:
        ValueError: for other shapes, but `[..., N, T]`, which stays as it is.
    """
    if response.dim() < 2 or response.shape[-2] not in (1, len(prompts)):
        raise ValueError(
            f"response has shape {tuple(response.shape)}, expected (..., {len(prompts)}, T): token ids of a response to each "
            f"of {len(prompts)} prompts"
        )
    return response.expand(*response.shape[:-2], len(prompts), -1)


class EvidenceError(ValueError):
    """Evidence returned something that cannot be a reward."""


class ZeroEvidenceError(ValueError):
    """A response is impossible (evidence -inf), and the algorithm that drew it has no finite answer to that."""


class BearsZeroEvidence(Messenger):
    """Inside this context a model may meet evidence of -inf; outside it, that is a `ZeroEvidenceError`.

    For algorithms that only weigh responses, as importance sampling or rejection do. An algorithm that differentiates
    a mean of log-weights, as every reverse-KL objective does, must not use it: Pyro's own would go on to write NaN
    into the parameters.
    """


def check_reward(name: str, reward: object, shape: torch.Size) -> Tensor:
    """`reward`, as the evidence called `name` returned it, if it can be one; in float64, in which all is computed with it.

    Raises:
        EvidenceError: for NaN, +inf, complex numbers, a wrong shape or a wrong type.
        ZeroEvidenceError: for -inf outside `BearsZeroEvidence`.
    """
    if not isinstance(reward, Tensor):
        raise EvidenceError(
            f"evidence {name!r} returned {type(reward).__name__}, expected a tensor of shape {tuple(shape)}. "
            "If it scores a list of texts, wrap it in `TextEvidence`."
        )
    if reward.is_complex() or reward.layout != torch.strided:
        raise EvidenceError(f"evidence {name!r} returned {reward.dtype}, {reward.layout}, expected real numbers, one by one")
    if reward.shape != shape:
        raise EvidenceError(
            f"evidence {name!r} returned shape {tuple(reward.shape)}, expected {tuple(shape)}: one value per particle and "
            "prompt. If it scores a flat list of texts, wrap it in `TextEvidence`."
        )
    if (where := first_index(reward.isnan() | reward.isposinf())) is not None:
        raise EvidenceError(
            f"evidence {name!r} returned {reward[where].item()} at index {where}, expected a finite number, or -inf for an "
            "impossible response. Check the reward on the text that it got there."
        )
    borne = any(isinstance(handler, BearsZeroEvidence) for handler in _PYRO_STACK)
    if not borne and (where := first_index(reward.isneginf())) is not None:
        raise ZeroEvidenceError(
            f"evidence {name!r} is -inf at index {where}: the guide drew a response that the posterior rules out, so "
            "KL(q || p*) is infinite and its gradient is NaN. Use a finite penalty in place of -inf, `inference.anneal`, or an "
            "algorithm that bears it: forward KL, rejection, importance sampling, or enumeration."
        )
    return reward.double()


def check_product(name: str, reward: Tensor, product: Tensor, of: str) -> Tensor:
    """A reward times or divided by a number, if every finite reward is still finite.

    Args:
        name: of the evidence.
        reward: as `check_reward` gave it.
        product: what was made of it, the same shape.
        of: what was done to the reward, for the error: "divided by beta".

    Raises:
        EvidenceError: if a finite reward became infinite: the number is so small, or so large, that float64 does not hold it.
    """
    if (where := first_index(reward.isfinite() & ~product.isfinite())) is not None:
        raise EvidenceError(
            f"evidence {name!r} is {reward[where].item():g} at index {where} and {product[where].item()} {of}, expected a "
            "finite number. Scale the reward"
        )
    return product


def upper_bound_of(name: str, evidence: object) -> float | None:
    """The largest reward there can be, as evidence states it; None where it states none.

    Raises:
        ValueError: if what is stated is no finite number.
    """
    bound = evidence.upper_bound if isinstance(evidence, Bounded) else None
    return None if bound is None else finite(f"the `upper_bound` of evidence {name!r}", bound, why="or None if not known")

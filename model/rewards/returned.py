"""Checks of the values that a reward function returned, with the text of a wrong value."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real

import numpy as np
from torch import Tensor

from model.common.texts import quoted
from model.likelihood import LikelihoodError


def checked_numbers(
    name: str, returned: object, texts: Sequence[str], *, may_skip: bool
) -> list[float | None]:
    """The numbers that a reward function returned for M texts.

    Args:
        name: name of the reward, for errors.
        returned: result of the function: a list, a tensor or an array of M numbers.
        texts: the M texts.
        may_skip: allow None, which says that the reward does not apply to the prompt.

    Raises:
        LikelihoodError: for another number of values, and for a value that is no reward.
    """
    values = listed(returned)
    if values is None or len(values) != len(texts):
        shown = f"{quoted(returned)} ({type(returned).__name__})"
        if isinstance(returned, Tensor | np.ndarray):
            shown = f"a {type(returned).__name__} of shape {tuple(returned.shape)}"
        raise LikelihoodError(
            f"the reward function {name!r} returned "
            f"{shown if values is None else f'{len(values)} numbers'} for {len(texts)} texts, "
            "expected a list of as many numbers"
        )
    numbers = [None if value is None and may_skip else as_number(value) for value in values]
    for text, value, number in zip(texts, values, numbers, strict=True):
        if number is not None and (math.isnan(number) or number == math.inf):
            got = f"reward {name!r} returned {quoted(value)} for the text {quoted(text)}"
            expected = "a finite number, or -inf for an impossible text"
            fix = ". A function that may return None has the prompt among its parameters"
            raise LikelihoodError(f"{got}, expected {expected}{fix if value is None else ''}")
    return numbers


def listed(returned: object) -> list[object] | None:
    """The values that a reward function returned, as a list; None for one value or a table."""
    if getattr(returned, "ndim", 1) != 1 or isinstance(returned, str | bytes | Mapping | Set):
        return None
    if isinstance(returned, Tensor):
        return returned.tolist()
    return list(returned) if isinstance(returned, Iterable) else None


def as_number(value: object) -> float:
    """A number or truth value of Python, numpy or torch as a float; NaN for anything else."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    try:
        return float(value) if isinstance(value, Real | np.bool_) else math.nan
    except OverflowError:
        return math.nan

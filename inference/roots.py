"""Roots: of one function by Brent's method, or of many monotone functions at once by bisection."""

from collections.abc import Callable

import scipy
import torch
from torch import Tensor


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a function with different signs at two ends; the end, if both are one."""
    if low == high:
        return low
    return scipy.optimize.brentq(function, low, high, xtol=1e-15, rtol=8.9e-16, maxiter=500)


def bisect(
    is_below: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, halvings: int
) -> tuple[Tensor, Tensor]:
    """Halve brackets of any shape; `is_below(x)` is true where the root is above x.

    Returns the brackets `low`, `high`, smaller by a factor of 2^halvings.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        below = is_below(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low, high

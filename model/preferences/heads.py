"""Heads: the reward as a function of features and one vector of weights, r_w(x) = head(phi(x), w).

The weights are an argument, not parameters of a module, so that any inference can draw them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from model.common.checks import whole_number


class Head(Protocol):
    """A function of features and weights, with the number of its weights."""

    @property
    def num_weights(self) -> int:
        """P, number of weights."""

    def __call__(self, features: Tensor, w: Tensor) -> Tensor:
        """Rewards `[..., M]` of features `[M, D]` for weights `[..., P]`."""


def check_head(head: object) -> None:
    """Refuse an object that is no head, by a `TypeError`."""
    if not isinstance(getattr(head, "num_weights", None), int):
        raise TypeError(f"head is a {type(head).__name__}, expected one of {', '.join(HEADS)}")


@dataclass(frozen=True)
class LinearHead:
    """r = w . phi for D features, without an intercept, which comparisons cannot determine."""

    num_features: int

    def __post_init__(self) -> None:
        whole_number("num_features", self.num_features)

    @property
    def num_weights(self) -> int:
        return self.num_features

    def __call__(self, features: Tensor, w: Tensor) -> Tensor:
        check_sizes(self, self.num_features, features, w)
        return w @ features.T


@dataclass(frozen=True)
class MLPHead:
    """r = v . tanh(A phi + b) / sqrt(hidden), one hidden layer.

    Hidden units may change places without changing the reward: compare rewards, not weights. At
    w = 0 the gradient is 0, so that an optimiser must start elsewhere.
    """

    num_features: int
    hidden: int = 8

    def __post_init__(self) -> None:
        whole_number("num_features", self.num_features)
        whole_number("hidden", self.hidden)

    @property
    def num_weights(self) -> int:
        return self.hidden * (self.num_features + 2)

    def __call__(self, features: Tensor, w: Tensor) -> Tensor:
        check_sizes(self, self.num_features, features, w)
        into, bias, out = w.split([self.hidden * self.num_features, self.hidden, self.hidden], -1)
        into = into.unflatten(-1, (self.num_features, self.hidden))  # [..., D, H]
        activity = (features @ into + bias[..., None, :]).tanh()  # [..., M, H]
        return (activity @ out[..., None]).squeeze(-1) / self.hidden**0.5


def check_sizes(head: Head, num_features: int, features: Tensor, w: Tensor) -> None:
    """Refuse features and weights of other sizes than the head's, by a `ValueError`."""
    sizes = {"features": (features, num_features), "weights": (w, head.num_weights)}
    for name, (tensor, size) in sizes.items():
        if tensor.shape[-1] != size:
            shape = tuple(tensor.shape)
            raise ValueError(f"{head} got {name} of shape {shape}, expected [..., {size}]")


HEADS: dict[str, Callable[[int], Head]] = {"linear": LinearHead, "mlp": MLPHead}
"""Heads by name: classes of one argument, the number of features."""

"""Pyro's record of what depends on which site, kept across code that would lose it.

`TraceGraph_ELBO` follows dependencies with a subclass of `Tensor`. It is lost where a reward goes through texts or Python
numbers, so that the reward would seem not to depend on the response and drop out of the gradient; and an autograd function that
is handed one returns a tensor without gradient. Both in silence.
"""

from __future__ import annotations

from collections.abc import Callable

from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor


def through(function: Callable[[Tensor], Tensor], response: Tensor) -> Tensor:
    """function(response), computed on a plain tensor; what comes back is known to depend on what `response` depends on."""
    return track_provenance(function(detach_provenance(response)), get_provenance(response))

"""Pyro's record of the sites that a tensor depends on, kept across code that would lose it.

`TraceGraph_ELBO` follows dependencies with a subclass of `Tensor`. A reward of texts or an autograd
function would lose the subclass, and so drop out of the gradient without an error.
"""

from collections.abc import Callable

from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor


def through(function: Callable[[Tensor], Tensor], response: Tensor) -> Tensor:
    """function(response), computed on a plain tensor, with the dependencies of `response`."""
    return track_provenance(function(detach_provenance(response)), get_provenance(response))

"""Micro-batches: a step whose memory does not grow with the number of responses.

    grad sum_b f(log q(x_b)) = sum over micro-batches of sum_(b in micro-batch) f'_b grad log q(x_b)

Draws, scores and the loss are of the whole batch. The pass that scores a micro-batch keeps no
activations; the backward pass computes the micro-batch again, with f' of the whole batch. This is
gradient caching (Gao et al. 2021, arXiv 2101.06983), inside the distribution at the site: no
objective is changed, and every objective has the gradient of the whole batch.
"""

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from inference.response_site import ResponseSiteError
from model import ResponseDistribution


def in_micro_batches(program: Callable, size: int | None) -> Callable:
    """The program, whose responses are scored with gradient for at most `size` at a time.

    Args:
        program: a model or a guide.
        size: number of responses; None leaves the program as it is.

    Raises:
        ResponseSiteError: in a run, if the program draws from another distribution than a
            `ResponseDistribution`.
    """
    if size is None:
        return program

    def divided(*args: Any, **kwargs: Any) -> Any:
        with _MicroBatches(size):  # the innermost handler: the others see its distribution
            return program(*args, **kwargs)

    return divided


class _MicroBatches(Messenger):
    """Handler that divides the distributions of responses of a program into micro-batches."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def _pyro_sample(self, msg: dict) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if not isinstance(msg["fn"], ResponseDistribution):
            raise ResponseSiteError(
                f"the site {msg['name']!r} has a {type(msg['fn']).__name__}, which cannot be "
                "scored in micro-batches, expected a `ResponseDistribution`: leave micro_batch out"
            )
        msg["fn"] = msg["fn"].in_micro_batches(self.size)

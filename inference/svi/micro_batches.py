"""Micro-batches: the gradient of a whole batch of responses in the memory of a part of it.

    grad sum_b f(log q(x_b)) = sum over micro-batches of sum_(b in it) f'_b grad log q(x_b)

Gradient caching (Gao et al. 2021, arXiv 2101.06983), inside the distribution at the site.
"""

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from inference.response_site import ResponseSiteError
from model import ResponseDistribution


class MicroBatches(Messenger):
    """Handler that reads the responses of a program with gradient for at most `size` at a time.

    Draws, scores and the loss are of the whole batch. The pass that scores a micro-batch keeps no
    activations; the backward pass computes the micro-batch again, with f' of the whole batch. No
    objective is changed, and every objective has the gradient of the whole batch.

    Raises:
        ResponseSiteError: in a run, if the program draws from another distribution than a
            `ResponseDistribution`.
    """

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

"""An objective whose loss is NaN, for tests of fits that stop early."""

from pyro.infer import Trace_ELBO

from inference.objectives import Objective


class Diverges(Trace_ELBO):
    """An objective whose loss is NaN."""

    def __init__(self, num_particles=2, **_):
        super().__init__(num_particles=num_particles)

    def loss_and_grads(self, *_):
        return float("nan")

    def loss(self, *_):
        return float("nan")


DIVERGES = Objective(Diverges, "none")
"""Entry of the registry."""

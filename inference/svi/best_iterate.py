"""The best iterate of a fit, by the ELBO of the last steps, to which the fit returns if it fell.

    best = max_t (ELBO_t - its standard error),    return if ELBO_end < ELBO_best - 4 errors

The draws of a step measure the parameters before the step, which are the optimiser's backup.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from inference.estimate import Estimate
from inference.objectives.parts.states import part_of, with_prefix
from model.common.sharded_tensors import copy_all

SURE = 4.0
"""Number of standard errors between best and end; the best of many is above its mean by two."""


class BestIterate:
    """A copy of the trained parameters of the best step so far. Takes their memory once more.

    Attributes:
        step: number of steps behind the parameters; None without a copy.
        elbo: ELBO of the last steps then, nats.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.elbo = Estimate(-math.inf, 0.0)
        self._parameters: dict[str, Tensor] = {}

    @torch.no_grad()
    def consider(self, step: int, elbo: Estimate, parameters: Mapping[str, Tensor]) -> None:
        """Copy the parameters if their ELBO, less its standard error, is the highest so far."""
        if not _sure(elbo) > _sure(self.elbo):
            return
        self.step, self.elbo = step, elbo
        for name in parameters.keys() - self._parameters.keys():
            self._parameters[name] = torch.empty_like(parameters[name])
        copy_all([self._parameters[name] for name in parameters], list(parameters.values()))

    @torch.no_grad()
    def restore(self, elbo: Estimate, parameters: Mapping[str, Tensor]) -> str:
        """Write the copy to the parameters if the ELBO at the end is lower by more than noise.

        Returns:
            A sentence about the return; empty without one.
        """
        error = math.hypot(elbo.standard_error, self.elbo.standard_error)
        if self.step is None or not elbo.value < self.elbo.value - SURE * error:
            return ""
        copy_all([parameters[name] for name in self._parameters], list(self._parameters.values()))
        return (
            f"the ELBO of the last steps is {elbo} nats, below {self.elbo} nats after step "
            f"{self.step}: the guide has the parameters of step {self.step}"
        )

    def get_state(self) -> dict[str, Tensor]:
        """The copy for a checkpoint, with step and ELBO; empty without one."""
        if self.step is None:
            return {}
        numbers = torch.tensor([self.step, *self.elbo], dtype=torch.float64)
        return {"best": numbers} | with_prefix("best/", self._parameters)

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take a state from `get_state`."""
        if "best" in state:
            step, *elbo = state["best"].tolist()
            self.step, self.elbo = int(step), Estimate(*elbo)
            self._parameters = part_of(state, "best/")


def _sure(elbo: Estimate) -> float:
    return elbo.value - elbo.standard_error

"""Minimum of a loss without noise, by L-BFGS with a line search (Liu and Nocedal 1989)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def minimise(
    loss: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    *,
    max_steps: int,
    tolerance_grad: float = 1e-9,
    tolerance_change: float = 0.0,
    history_size: int = 100,
) -> float:
    """Move parameters to a local minimum of a loss, in place. Returns the loss at the end.

    The parameters keep the gradient at the end, which is near 0 if the descent converged.

    Args:
        loss: function of no argument, the same number at the same parameters.
        parameters: the free parameters, leaf tensors that require a gradient.
        max_steps: largest number of steps.
        tolerance_grad: largest component of the gradient at which the descent ends.
        tolerance_change: change of loss and parameters below which the descent ends.
        history_size: number of steps from which the curvature is estimated.
    """
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=max_steps,
        tolerance_grad=tolerance_grad,
        tolerance_change=tolerance_change,
        history_size=history_size,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    return closure().item()

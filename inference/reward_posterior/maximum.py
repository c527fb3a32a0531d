"""Maximum a posteriori: w = argmax log p(outcomes | w) + log p(w), the usual reward model with weight decay.

The guide is a point mass, whose ELBO is the log joint density, without noise; so L-BFGS goes all the way, where a stochastic
optimiser would stop somewhere near. No uncertainty is left in it: S is 1.

The point mass is that of Pyro's AutoLaplaceApproximation, in unconstrained space. For the weights it makes no difference; a
latent flip probability would else have its highest density at 0, where its logarithm is not to be differentiated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_sample
from torch import Tensor, nn

from inference import random_state
from model.common.checks import function, instance, whole_number
from model.preferences import Comparisons


class NotMaximisedError(ArithmeticError):
    """The optimiser did not come to a point where the gradient vanishes."""


def check_counts(**counts: int) -> None:
    """Refuse numbers of draws or of steps that are not whole, or less than 1.

    Raises:
        ValueError: with the first one's name.
    """
    for name, count in counts.items():
        whole_number(name, count)


def check_inference(model: object, comparisons: object) -> None:
    """Refuse what is no program, or what are no comparisons with outcomes.

    Raises:
        TypeError: for something else than a callable and `Comparisons`.
        ValueError: if they have no outcomes.
    """
    function("model", model, why="a Pyro program over comparisons, such as `BradleyTerry`")
    if instance("comparisons", comparisons, Comparisons).outcome is None:
        raise ValueError(
            "the comparisons have no outcomes, expected those that were observed: nothing is learned without"
        )


def maximum_a_posteriori(
    model: Callable[[Comparisons], Any],
    comparisons: Comparisons,
    *,
    num_samples: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """The weights of highest posterior density (and the flip probability with them, where that is latent).

    Args:
        model: a Pyro program over comparisons with a latent site `w`.
        comparisons: with their outcomes.
        num_samples: plays no part: there is one point.
        seed: of the starting point, a draw from the prior. It matters where there are several maxima, as with `MLPHead`.
        progress: plays no part.

    Returns:
        `[1, P]`.

    Raises:
        NotMaximisedError: if L-BFGS does not converge.
    """
    check_inference(model, comparisons)
    with random_state.isolated(seed), pyro.get_param_store().scope():
        guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_sample)
        maximise(model, guide, comparisons)
        return guide(comparisons)["w"].detach()[None]


def maximise(
    model: Callable[[Comparisons], Any],
    guide: nn.Module,
    comparisons: Comparisons,
    max_steps: int = 2000,
) -> None:
    """Move a guide that is a point mass to the maximum of the joint density, in place and in Pyro's current store.

    Raises:
        NotMaximisedError: if the gradient does not vanish.
    """
    elbo = Trace_ELBO()
    elbo.differentiable_loss(model, guide, comparisons)  # the guide meets its parameters
    parameters = list(guide.parameters())
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=max_steps,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = elbo.differentiable_loss(model, guide, comparisons)
        loss.backward()
        return loss

    optimiser.step(closure)
    closure()
    slopes = [parameter.grad.abs().max() for parameter in parameters if parameter.grad is not None]
    slope = (
        torch.stack(slopes).max().item()
    )  # NaN if one is, where Python's own maximum may drop it
    if not slope < 1e-3:
        raise NotMaximisedError(
            f"after up to {max_steps} steps of L-BFGS the gradient of the log density still has {slope:.1e}, expected 0. "
            "Features may be on very different scales: standardise them; or the prior is too wide for so few comparisons."
        )
    if slope > 1e-5:
        warnings.warn(
            f"L-BFGS stopped where the gradient of the log density has {slope:.1e}", stacklevel=2
        )

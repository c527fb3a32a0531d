"""Maximum a posteriori: w = argmax log p(outcomes | w) + log p(w), a reward with weight decay.

The guide is a point mass, whose ELBO is the log joint density without noise, so that L-BFGS
converges fully. The point mass is that of Pyro's AutoLaplaceApproximation, in unconstrained space,
as a latent flip probability would otherwise have its highest density at 0, where the logarithm has
no derivative. The weights do not depend on the space. `laplace` draws from the Gaussian there.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_sample, init_to_value
from torch import Tensor, nn

from inference import random_state
from model.common.checks import boolean, function, instance, whole_number
from model.common.minimise import minimise
from model.preferences import Observations


class NotMaximisedError(ArithmeticError):
    """The optimiser did not reach a point at which the gradient vanishes."""


def check_inference(model: object, comparisons: object, progress: object, **counts: int) -> None:
    """Refuse counts below 1, a model that is no program, and comparisons without outcomes."""
    boolean("progress", progress)
    for name, count in counts.items():
        whole_number(name, count)
    function("model", model, why="a Pyro program over comparisons, such as `BradleyTerry`")
    observed = instance("comparisons", comparisons, Observations)  # type: ignore[type-abstract]
    if observed.outcome is None:
        raise ValueError("the comparisons have no outcomes, expected those that were observed")


def maximum_a_posteriori(
    model: Callable[[Any], Any],
    comparisons: Observations,
    *,
    num_samples: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Weights of highest posterior density, `[1, P]`, jointly with a latent flip probability.

    Args:
        model, comparisons: See `RewardInference`.
        num_samples, progress: Not used: there is one point.
        seed: Seed of the start, a prior draw; matters if there are several maxima (`MLPHead`).

    Raises:
        NotMaximisedError: If L-BFGS does not converge.
    """
    check_inference(model, comparisons, progress, num_samples=num_samples)
    with random_state.isolated(seed, comparisons.like.device), pyro.get_param_store().scope():
        return point_mass(model, comparisons)(comparisons)["w"].detach()[None]


def start(
    model: Callable[[Any], Any], comparisons: Observations
) -> Callable[[dict[str, Any]], Tensor]:
    """Start of each site: a prior draw; or the maximum beside the `first_values` of the model."""
    known = getattr(model, "first_values", {})
    values = {name: comparisons.like.new_tensor(value) for name, value in known.items()}
    if not values:
        return init_to_sample
    conditioned = poutine.condition(model, values)
    guide = AutoLaplaceApproximation(conditioned, init_loc_fn=init_to_sample)
    with pyro.get_param_store().scope():
        maximise(conditioned, guide, comparisons)
        values |= {name: value.detach() for name, value in guide(comparisons).items()}
    return init_to_value(values=values)


def point_mass(model: Callable[[Any], Any], comparisons: Observations) -> AutoLaplaceApproximation:
    """Point mass at the maximum of the joint density that L-BFGS reaches from `start`."""
    guide = AutoLaplaceApproximation(model, init_loc_fn=start(model, comparisons))
    maximise(model, guide, comparisons)
    return guide


def maximise(
    model: Callable[[Any], Any],
    guide: nn.Module,
    comparisons: Observations,
    max_steps: int = 2000,
) -> None:
    """Move a point mass to the maximum of the joint density, in place and in Pyro's store.

    Raises:
        NotMaximisedError: If the gradient does not vanish.
    """
    elbo = Trace_ELBO()
    elbo.differentiable_loss(model, guide, comparisons)  # makes the guide's parameters
    parameters = list(guide.parameters())
    minimise(
        lambda: elbo.differentiable_loss(model, guide, comparisons),
        parameters,
        max_steps=max_steps,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
    )
    slopes = [parameter.grad.abs().max() for parameter in parameters if parameter.grad is not None]
    slope = torch.stack(slopes).max().item()  # NaN if one is, unlike Python's own maximum
    if not slope < 1e-3:
        raise NotMaximisedError(
            f"after up to {max_steps} steps of L-BFGS the gradient of the log density still has "
            f"{slope:.1e}, expected 0: standardise the features, or use a narrower prior"
        )
    if slope > 1e-5:
        message = f"L-BFGS stopped where the gradient of the log density has {slope:.1e}"
        warnings.warn(message, stacklevel=2)


def laplace(
    model: Callable[[Any], Any],
    comparisons: Observations,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Draw `[S, P]` from N(w_MAP, H^-1), H the Hessian of minus the log joint at the maximum.

    The maximum is that of `maximum_a_posteriori` with the same seed. Exact in the limit of many
    comparisons, where the posterior is Gaussian (MacKay 1992). A latent flip probability is part of
    the Gaussian, in unconstrained space, and not returned.

    Args:
        model, comparisons, num_samples, seed: See `RewardInference`.
        progress: Not used.

    Raises:
        NotMaximisedError: If there is no maximum with curvature in all directions.
    """
    check_inference(model, comparisons, progress, num_samples=num_samples)
    with random_state.isolated(seed, comparisons.like.device), pyro.get_param_store().scope():
        guide = point_mass(model, comparisons)
        try:
            gaussian = guide.laplace_approximation(comparisons)
        except (RuntimeError, ValueError) as error:  # the Hessian has no Cholesky factor
            fault = "the log density has no curvature in some direction at its maximum"
            raise NotMaximisedError(f"{fault}: use nuts, or an ensemble") from error
        with torch.no_grad():
            return torch.stack([gaussian(comparisons)["w"] for _ in range(num_samples)])

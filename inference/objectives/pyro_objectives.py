"""Pyro's own objectives for one plate of prompts, refused where their result would be wrong."""

from collections.abc import Callable
from typing import Any

from pyro.infer import ELBO, RenyiELBO, ReweightedWakeSleep, Trace_ELBO

from inference.objectives.parts.surrogate_loss import only_argument
from model.common.checks import finite, whole_number

ONE_PLATE: dict[str, Any] = {"max_plate_nesting": 1, "vectorize_particles": True}


def trace(num_particles: int = 64, make: type[ELBO] = Trace_ELBO) -> ELBO:
    """REINFORCE without a baseline, by `Trace_ELBO` or the like. Unbiased, value and gradient.

    At q = p* the variance is (log Z)^2 tr F, with the Fisher information F.
    """
    return make(num_particles=whole_number("num_particles", num_particles), **ONE_PLATE)


def renyi(num_particles: int = 64, alpha: float = 0.5) -> RenyiELBO:
    """Variational Renyi bound (Li and Turner 2016, arXiv 1602.02311) with Pyro's gradient.

    Refuses alpha = 0 and one particle, where that gradient is 0 for a discrete guide, and alpha =
    1, which is the ELBO.
    """
    alpha = finite("alpha", alpha)
    if alpha == 1:
        raise ValueError("alpha is 1, where the bound is the ELBO: use `LeaveOneOut_ELBO`")
    if alpha == 0:
        raise ValueError(
            "alpha is 0: Pyro multiplies a discrete guide's score by alpha/(1 - alpha), so that "
            "its gradient is exactly 0. `MultiSample_ELBO` is that bound, with its gradient."
        )
    why = "with 1 the bound is the ELBO, and Pyro's gradient of it has mean 0"
    num_particles = whole_number("num_particles", num_particles, at_least=2, why=why)
    return RenyiELBO(alpha=alpha, num_particles=num_particles, **ONE_PLATE)


def reweighted_wake_sleep(num_particles: int = 64) -> ReweightedWakeSleep:
    """The wake-phi phase alone, for a model without parameters; see `OnePromptRWS`."""
    number = whole_number("num_particles", num_particles, at_least=2, why="one has all the weight")
    options = {"num_particles": number, "insomnia": 1.0, "model_has_params": False}
    return OnePromptRWS(**options, **ONE_PLATE)


class OnePromptRWS(ReweightedWakeSleep):
    """`ReweightedWakeSleep` for one prompt a step: Pyro normalises over all prompts at once."""

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> tuple[float, float]:
        prompts = only_argument("Pyro's ReweightedWakeSleep", args, kwargs)
        if len(prompts) > 1:
            raise ValueError(
                f"Pyro's ReweightedWakeSleep got {len(prompts)} prompts, normalises weights over "
                "all of them: use `WakePhi`, or one prompt a step (prompts_per_step=1)"
            )
        return super().loss_and_grads(model, guide, prompts)

"""The posterior of a reward's weights given comparisons, one algorithm a file, and the registry that scripts and tests go
by."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from inference.estimate import check_numbers
from inference.reward_posterior.autoguide import autoguide
from inference.reward_posterior.ensemble import ensemble
from inference.reward_posterior.laplace import laplace
from inference.reward_posterior.maximum import (
    NotMaximisedError,
    check_counts,
    check_inference,
    maximum_a_posteriori,
)
from inference.reward_posterior.nuts import nuts
from inference.reward_posterior.ties import tie_strength
from model.preferences import Comparisons


class RewardInference(NamedTuple):
    """An entry of the registry. Calling it infers.

    Attributes:
        infer: takes a model and comparisons and, by keyword, `num_samples`, `seed` and `progress`; returns weights `[S, P]`.
        summary: one line.
    """

    infer: Callable[..., Tensor]
    summary: str

    def __call__(
        self,
        model: Callable[..., Any],
        comparisons: Comparisons,
        *,
        num_samples: int = 64,
        seed: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Draws of the weights, `[S, P]`.

        Raises:
            ValueError: if no draws are asked for or the comparisons have no outcomes, and whatever the inference raises.
            NotANumberError: if a weight that it draws is NaN.
        """
        check_counts(num_samples=num_samples)
        check_inference(model, comparisons)
        samples = self.infer(
            model, comparisons, num_samples=num_samples, seed=seed, progress=progress
        )
        return check_numbers("a draw of the weights", samples)


REWARD_INFERENCE: dict[str, RewardInference] = {
    "map": RewardInference(
        maximum_a_posteriori, "the point of highest density; one draw, no uncertainty"
    ),
    "laplace": RewardInference(laplace, "a Gaussian with the mode and the curvature there"),
    "autoguide": RewardInference(autoguide, "the closest Gaussian, by SVI"),
    "nuts": RewardInference(
        nuts, "Markov chain Monte Carlo: the posterior itself, and the price of it"
    ),
    "ensemble": RewardInference(ensemble, "maxima of bootstrap resamples with randomised priors"),
}
"""By name, what draws weights when called with a model and comparisons."""

__all__ = [
    "REWARD_INFERENCE",
    "NotMaximisedError",
    "RewardInference",
    "autoguide",
    "ensemble",
    "laplace",
    "maximum_a_posteriori",
    "nuts",
    "tie_strength",
]

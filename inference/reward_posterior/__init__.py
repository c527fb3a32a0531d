"""Posteriors of a reward's weights given comparisons, one algorithm a file, and their registry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inference.estimate import check_numbers
from inference.reward_posterior import ties
from inference.reward_posterior.autoguide import autoguide
from inference.reward_posterior.ensemble import ensemble
from inference.reward_posterior.maximum import laplace, maximum_a_posteriori
from inference.reward_posterior.nuts import nuts
from model.preferences import (
    BradleyTerry,
    Comparisons,
    Features,
    Head,
    Judged,
    LinearHead,
    Observations,
    Ranking,
    Rankings,
    RewardPosterior,
    StandardisedFeatures,
)


@dataclass(frozen=True)
class RewardInference:
    """Entry of the registry. Calling the entry draws weights.

    Attributes:
        infer: Function of a model and comparisons that returns weights `[S, P]`.
        is_point: True if the result is one point, without uncertainty: S is 1.
    """

    infer: Callable[..., Tensor]
    summary: str
    is_point: bool = False

    def __call__(
        self,
        model: Callable[..., Any],
        comparisons: Observations,
        *,
        num_samples: int = 64,
        seed: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Draw weights, `[S, P]`.

        Args:
            model: Pyro program over comparisons with a latent site `w`, such as `BradleyTerry`. An
                attribute `first_values`, as there, names sites that a search for the maximum first
                holds, such as a latent flip probability.
            comparisons: `Comparisons` or `Rankings`, with outcomes.
            num_samples: S.
            seed: Seed of starts and draws.
            progress: True to show a progress bar, where there is one.

        Raises:
            NotANumberError: If a weight is NaN.
        """
        options = {"num_samples": num_samples, "seed": seed, "progress": progress}
        return check_numbers("a draw of the weights", self.infer(model, comparisons, **options))

    def from_preferences(
        self,
        preferences: Sequence[Judged],
        features: Features,
        *,
        head: Callable[[int], Head] = LinearHead,
        num_components: int | None = None,
        prior_scale: float = 2.0,
        flip: float = 0.0,
        tie_strength: float | None = None,
        **options: Any,
    ) -> tuple[BradleyTerry, RewardPosterior]:
        """Infer a reward from preferences or rankings: features, program and draws in one call.

            laplace = REWARD_INFERENCE["laplace"]
            program, reward = laplace.from_preferences(preferences, PriorFeatures(prior))

        Args:
            preferences: Preferences, or rankings, to learn from.
            features: phi. The texts of the preferences centre and scale the features.
            head: A head of `HEADS`: the reward as a function of D features, given D.
            num_components: Number of principal components of the features; default, no projection.
            prior_scale, flip: See `BradleyTerry`; rankings have no flip.
            tie_strength: See `BradleyTerry`; default, the most probable. Rankings have none.
            options: `num_samples`, `seed` and `progress` of a call of the entry.

        Raises:
            NotMaximisedError: If the most probable weights are not found.
            NotANumberError: If a weight is NaN.
        """
        texts = [text for preference in preferences for text in preference.texts]
        scaled = StandardisedFeatures.fit(features, texts, num_components=num_components)
        is_list = any(isinstance(each, Ranking) for each in preferences)
        comparisons = (Rankings if is_list else Comparisons).of(preferences, scaled)
        if tie_strength is None and isinstance(comparisons, Comparisons):
            tie_strength = ties.tie_strength(comparisons, prior_scale, flip)
        model = BradleyTerry(head(scaled.num_features), prior_scale, flip, tie_strength or 0.0)
        return model, RewardPosterior(model.head, scaled, self(model, comparisons, **options))


REWARD_INFERENCE: dict[str, RewardInference] = {
    "map": RewardInference(
        maximum_a_posteriori, "the point of highest density, without uncertainty", is_point=True
    ),
    "laplace": RewardInference(laplace, "a Gaussian with the mode and the curvature there"),
    "autoguide": RewardInference(autoguide, "the closest Gaussian, by SVI"),
    "nuts": RewardInference(nuts, "Markov chain Monte Carlo: the posterior itself, at its cost"),
    "ensemble": RewardInference(ensemble, "maxima of bootstrap resamples with randomised priors"),
}
"""Inferences by name. Calling an entry with a model and comparisons draws weights."""

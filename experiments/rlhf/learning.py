"""A reward from preferences: inference, test on other preferences, check of the inference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.rlhf.text_sample import Gold, TextSample
from experiments.shared.claims import Finding
from experiments.shared.refusals import blamed
from inference.diagnostics.simulation_based_calibration import simulation_based_calibration
from inference.reward_posterior import REWARD_INFERENCE
from inference.reward_posterior.calibration import Calibration, calibrate, predict
from inference.reward_posterior.ties import tie_strength
from model.preferences import (
    HEADS,
    BradleyTerry,
    Comparisons,
    Features,
    LinearHead,
    Preference,
    RewardPosterior,
    StandardisedFeatures,
)


class Study(NamedTuple):
    """A learned reward with its report; and, if gold rewards are known, findings and a sample."""

    posterior: RewardPosterior
    tables: list[str]
    pictures: list[Path]
    findings: Sequence[Finding] = ()
    gold: Gold | None = None
    sample: TextSample | None = None


@dataclass(frozen=True)
class RewardLearner:
    """One way from preferences to a reward, with options of `RLHF` of the same names."""

    features: Features
    inference: str
    head: str
    components: int
    prior_scale: float
    reward_samples: int
    flip: float
    tie_strength: float | None

    def learn(self, train: Sequence[Preference], seed: int) -> tuple[BradleyTerry, RewardPosterior]:
        """Infer the posterior of the reward."""
        texts = [text for preference in train for text in preference.texts]
        features = StandardisedFeatures.fit(self.features, texts, num_components=self.components)
        comparisons = Comparisons.of(train, features)
        with blamed(f"--inference {self.inference} with --head {self.head}"):
            nu = self.tie_strength
            if nu is None:
                nu = tie_strength(comparisons, self.prior_scale, self.flip)
            head = HEADS[self.head](features.num_features)
            model = BradleyTerry(head, self.prior_scale, flip=self.flip, tie_strength=nu)
            infer = REWARD_INFERENCE[self.inference]
            samples = infer(model, comparisons, num_samples=self.reward_samples, seed=seed)
        return model, RewardPosterior(model.head, features, samples)

    def check_inference(
        self,
        features: StandardisedFeatures,
        train: Sequence[Preference],
        num_simulations: int,
        seed: int,
    ) -> str:
        """Run simulation-based calibration on four components and fifty comparisons: one line."""
        if REWARD_INFERENCE[self.inference].is_point:
            return "Simulation-based calibration: none, a point has no ranks"
        comparisons = Comparisons.of(train[:50], features)
        few = min(4, features.num_features)
        comparisons = Comparisons(comparisons.first[:, :few], comparisons.second[:, :few])
        ranks = simulation_based_calibration(
            BradleyTerry(LinearHead(few), self.prior_scale, flip=self.flip),
            comparisons,
            REWARD_INFERENCE[self.inference].infer,
            num_simulations=num_simulations,
            num_samples=19,
            seed=seed,
        )
        return (
            f"Simulation-based calibration of {self.inference}, {num_simulations} simulations of "
            f"{len(comparisons.first)} comparisons, {few} weights: p = {ranks.p_value(5):.2g} "
            "for uniform ranks"
        )


def held_out(
    model: BradleyTerry, posterior: RewardPosterior, preferences: Sequence[Preference]
) -> Calibration:
    """Test a reward on preferences that it was not learned from."""
    comparisons = Comparisons.of(preferences, posterior.features)
    assert comparisons.outcome is not None
    prediction = predict(model, comparisons, posterior.samples, label_noise=True)
    return calibrate(prediction, comparisons.outcome)

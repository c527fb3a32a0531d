"""A reward from preferences: inference, tests, and the posteriors of one simulated data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from experiments.rlhf.text_sample import Curve, Gold, TextSample, sweep
from experiments.shared.claims import Finding
from experiments.shared.refusals import blamed
from inference import random_state
from inference.diagnostics.simulation_based_calibration import simulation_based_calibration
from inference.reward_posterior import REWARD_INFERENCE
from inference.reward_posterior.calibration import Calibration, calibrate, predict
from inference.reward_posterior.ties import tie_strength
from model.preferences import (
    AGGREGATIONS,
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


KLS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""KL(p* || p0) at which gold rewards are tabulated, nats."""
NUM_TEST = 1000
"""Number of held-out preferences."""


class TextWorld(NamedTuple):
    """Responses of one length: texts to learn from, and texts to test and measure on."""

    name: str
    pool: TextSample
    sample: TextSample


@dataclass(frozen=True)
class Run:
    """Measurements of one data set, by name.

    For each aggregation A: `A gold KL`, gold reward at that KL; `A peak kl`, KL of the highest gold
    reward; `A gain`, gold reward there minus that of the prior; `A fall`, gold reward lost from
    there to the end of the curve; `A proxy rise`, proxy reward gained meanwhile.
    """

    world: str
    num_preferences: int
    seed: int
    measured: dict[str, float]


class DataSet(NamedTuple):
    """A data set's measurements, posteriors by aggregation, test, reward, and preferences."""

    run: Run
    curves: dict[str, Curve]
    calibration: Calibration
    posterior: RewardPosterior
    train: Sequence[Preference]


def data_set(
    world: TextWorld,
    learner: RewardLearner,
    num_preferences: int,
    number: int,
    betas: Tensor,
    min_effective: float,
    seed: int,
) -> DataSet:
    """Draw preferences, learn the reward, test it, and compute its posteriors for all betas."""
    sample = world.sample
    with (
        random_state.isolated(seed + 1000 * number + num_preferences),
        blamed(f"--num-preferences {num_preferences}, {world.name}"),
    ):
        train = world.pool.preferences(num_preferences, learner.flip)
        test = sample.preferences(NUM_TEST, learner.flip, without=train)
    model, posterior = learner.learn(train, seed + number)
    calibration = held_out(model, posterior, test)
    rewards = posterior(sample.texts)  # [S, M]
    measured = {
        "correlation": sample.correlation(rewards.mean(0)),
        "accuracy": calibration.accuracy.value,
        "ece": calibration.ece,
        "ece by chance": calibration.ece_by_chance,
    }
    curves = {}
    for name, aggregate in AGGREGATIONS.items():
        with blamed(f"--draws {len(sample.texts)} with --min-effective {min_effective:g}"):
            curve = curves[name] = sweep(sample, rewards, aggregate, betas, min_effective)
        peak = curve.peak
        measured |= {f"{name} gold {kl:g}": curve.gold_at(kl) for kl in KLS}
        measured[f"{name} peak kl"] = curve.kl[peak].item()
        measured[f"{name} gain"] = curve.gold[peak].item() - sample.prior_gold
        measured[f"{name} fall"] = (curve.gold[peak] - curve.gold[-1]).item()
        measured[f"{name} proxy rise"] = (curve.proxy[-1] - curve.proxy[peak]).item()
    run = Run(world.name, num_preferences, number, measured)
    return DataSet(run, curves, calibration, posterior, train)

"""One simulated data set: preferences, the reward learned from them, and posteriors under it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from experiments.rlhf.learning import RewardLearner, held_out
from experiments.rlhf.sweep import Curve, sweep
from experiments.rlhf.text_sample import TextSample
from experiments.shared.refusals import blamed
from inference import random_state
from inference.reward_posterior.calibration import Calibration
from model.preferences import AGGREGATIONS, Preference, RewardPosterior

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

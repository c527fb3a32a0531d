"""A reward from preferences: inference, tests, and the posteriors of one simulated data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from experiments.rlhf.options import RLHF
from experiments.rlhf.text_sample import Curve, Gold, TextSample, sweep
from experiments.shared.claims import Finding
from experiments.shared.refusals import blamed
from inference import random_state
from inference.diagnostics.simulation_based_calibration import simulation_based_calibration
from inference.reward_posterior import REWARD_INFERENCE
from inference.reward_posterior.calibration import Calibration, calibrate, predict
from model.preferences import (
    AGGREGATIONS,
    BradleyTerry,
    Features,
    Judged,
    Preference,
    RewardPosterior,
)
from model.preferences.comparisons import Comparisons
from model.preferences.features import StandardisedFeatures
from model.preferences.heads import HEADS, LinearHead

KLS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""KL(p* || p0) at which gold rewards are tabulated, nats."""
NUM_TEST = 1000
"""Number of held-out preferences."""


class Study(NamedTuple):
    """A learned reward with its report; and, if gold rewards are known, findings and a sample."""

    posterior: RewardPosterior
    tables: list[str]
    pictures: list[Path]
    findings: Sequence[Finding] = ()
    gold: Gold | None = None
    sample: TextSample | None = None


def learn(
    args: RLHF, features: Features, train: Sequence[Judged], seed: int
) -> tuple[BradleyTerry, RewardPosterior]:
    """Infer the posterior of the reward from preferences or rankings."""
    with blamed(f"--inference {args.inference} with --head {args.head}"):
        names = ("prior_scale", "flip", "tie_strength")
        options: dict[str, Any] = {name: getattr(args, name) for name in names}
        options |= {"num_components": args.components, "num_samples": args.reward_samples}
        infer = REWARD_INFERENCE[args.inference].from_preferences
        return infer(train, features, head=HEADS[args.head], seed=seed, **options)


def check_inference(args: RLHF, features: StandardisedFeatures, train: Sequence[Preference]) -> str:
    """Run simulation-based calibration on four components and fifty comparisons: one line."""
    if REWARD_INFERENCE[args.inference].is_point:
        return "Simulation-based calibration: none, a point has no ranks"
    comparisons = Comparisons.of(train[:50], features)
    few = min(4, features.num_features)
    comparisons = Comparisons(comparisons.first[:, :few], comparisons.second[:, :few])
    model = BradleyTerry(LinearHead(few), args.prior_scale, flip=args.flip)
    infer = REWARD_INFERENCE[args.inference].infer
    sizes: dict[str, Any] = {"num_simulations": args.simulations, "num_samples": 19}
    ranks = simulation_based_calibration(model, comparisons, infer, **sizes, seed=args.seed)
    return (
        f"Simulation-based calibration of {args.inference}, {args.simulations} simulations of "
        f"{len(comparisons.first)} comparisons, {few} weights: p = {ranks.p_value(5):.2g} "
        "for uniform ranks"
    )


def held_out(
    model: BradleyTerry, posterior: RewardPosterior, preferences: Sequence[Judged]
) -> Calibration:
    """Test a reward on preferences, or on all pairs of rankings, that it was not learned from."""
    pairs = [pair for each in preferences for pair in each.preferences()]
    groups = [each.pair for each in preferences for _ in each.preferences()]
    comparisons = Comparisons.of(pairs, posterior.features)
    assert comparisons.outcome is not None
    prediction = predict(model, comparisons, posterior.samples, label_noise=True)
    return calibrate(prediction, comparisons.outcome, pair=groups)


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
    args: RLHF,
    features: Features,
    world: TextWorld,
    num_preferences: int,
    number: int,
    betas: Tensor,
) -> DataSet:
    """Draw preferences, learn the reward, test it, and compute its posteriors for all betas."""
    sample = world.sample
    with (
        random_state.isolated(args.seed + 1000 * number + num_preferences),
        blamed(f"--num-preferences {num_preferences}, {world.name}"),
    ):
        train = world.pool.preferences(num_preferences, args.flip)
        test = sample.preferences(NUM_TEST, args.flip, without=train)
    model, posterior = learn(args, features, train, args.seed + number)
    calibration = held_out(model, posterior, test)
    rewards = posterior(sample.texts)  # [S, M]
    accuracy = calibration.accuracy.value
    measured = {"correlation": sample.correlation(rewards.mean(0)), "accuracy": accuracy}
    measured |= {"ece": calibration.ece, "ece by chance": calibration.ece_by_chance}
    curves = {}
    for name, aggregate in AGGREGATIONS.items():
        with blamed(f"--draws {len(sample.texts)} with --min-effective {args.min_effective:g}"):
            curve = curves[name] = sweep(sample, rewards, aggregate, betas, args.min_effective)
        peak = curve.peak
        measured |= {f"{name} gold {kl:g}": curve.gold_at(kl) for kl in KLS}
        measured[f"{name} peak kl"] = curve.kl[peak].item()
        measured[f"{name} gain"] = curve.gold[peak].item() - sample.prior_gold
        measured[f"{name} fall"] = (curve.gold[peak] - curve.gold[-1]).item()
        measured[f"{name} proxy rise"] = (curve.proxy[-1] - curve.proxy[peak]).item()
    run = Run(world.name, num_preferences, number, measured)
    return DataSet(run, curves, calibration, posterior, train)

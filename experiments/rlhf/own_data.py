"""Preferences from a file, whose gold reward is unknown."""

from collections.abc import Sequence
from pathlib import Path

from experiments.rlhf import figures as rlhf_figures
from experiments.rlhf.learning import RewardLearner, Study, held_out
from experiments.shared.figures import save
from experiments.shared.refusals import blamed
from experiments.shared.tables import text_table
from model.preferences import Preference, read_preferences, split_preferences

Split = tuple[Sequence[Preference], Sequence[Preference]]


def read_split(path: Path, test_share: float, seed: int) -> Split:
    """Read preferences to learn from and to test on; exit if either part has nothing but ties."""
    with blamed("--preferences"):
        train, test = split_preferences(read_preferences(path), test_share, seed)
        parts = {"held-out preferences": test, "preferences to learn from": train}
        for name, part in parts.items():
            if all(preference.tie for preference in part):
                raise ValueError(
                    f"all {len(part)} {name} are ties, which say nothing: change --held-out, or "
                    "give more"
                )
    return train, test


def study_data(split: Split, learner: RewardLearner, folder: Path, seed: int) -> Study:
    """Learn a reward, save it and test it on the held-out preferences."""
    train, test = split
    model, posterior = learner.learn(train, seed)
    posterior.save(folder / "reward")
    calibration = held_out(model, posterior, test)
    figure = rlhf_figures.reliability_figure({"held out": calibration})
    picture = save(figure, folder / "reliability.svg")
    summary = (
        f"The reward, from {len(train)} preferences, on {len(test)} held out: accuracy "
        f"{calibration.accuracy}, log loss {calibration.log_loss} nats, ECE {calibration.ece:.3f} "
        f"(by chance {calibration.ece_by_chance:.3f})"
    )
    if model.tie_strength:
        summary += f", ties of strength {model.tie_strength:.2f}"
    bins = zip(calibration.confidence, calibration.correct, calibration.count, strict=True)
    rows = {
        f"confidence {confidence:.2f}": [f"{correct:.2f}", f"{count:.0f}"]
        for confidence, correct, count in bins
    }
    table = text_table(["predicted right", "comparisons"], rows)
    return Study(posterior, [summary, table], [picture])

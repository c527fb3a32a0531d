"""Trainers reach their predicted targets on the world of 21 responses."""

import math

import pytest

from experiments.shared.claims import NOISY
from experiments.trainer_targets.__main__ import APART, REACHED, TrainerTargets, judged, main
from experiments.trainer_targets.trainers import OURS
from experiments.trainer_targets.trl_trainers import TRL
from experiments.trainer_targets.worlds import POSTERIOR, TARGET, World


@pytest.mark.slow
def test_grpo_ends_at_its_own_target_and_rloo_at_the_posterior(tmp_path, capsys):
    args = TrainerTargets(only=("rloo", "grpo"), steps=150, seeds=1, out=tmp_path)
    statements = [finding.statement for finding in main(args)]
    ends = [float(text.rpartition("nats: ")[2].split(" ")[0]) for text in statements]
    assert ends[0] < REACHED
    assert ends[1] < REACHED
    assert ends[2] > 0
    assert all(text.endswith(NOISY) for text in statements), "one run has no error"
    assert "The claim did NOT hold, 3 of 3 findings failed" in capsys.readouterr().out
    (figure,) = tmp_path.glob("*/targets.svg")
    assert figure.stat().st_size > 10_000


def test_trainers_whose_target_is_not_the_posterior_have_one_far_away():
    for trainer in (OURS | TRL).values():
        world = World.of(trainer.beta, trainer.target)
        start = world.distances(world.truth.log_prior)
        assert start[TARGET] > 0.2
        near = {"posterior": 1e-12, "token-reverse-kl": 0.002}
        assert world.apart() < near.get(trainer.target, math.inf)
        assert world.apart() > 0.2 or trainer.target in near


@pytest.mark.parametrize(
    ("to_target", "to_posterior", "held"),
    [(0.02, 0.5, [True, True]), (0.02, 0.1, [True, False]), (0.2, 3.0, [False, True])],
)
def test_findings_follow_the_two_distances(to_target, to_posterior, held):
    runs = [{TARGET: to_target, POSTERIOR: to_posterior}] * 2
    assert [finding.held for finding in judged("x", runs, 2 * APART)] == held
    assert len(judged("x", runs, 0.5 * APART)) == 1


def test_distances_within_two_standard_errors_of_a_limit_are_too_noisy():
    runs = [{TARGET: 0.01, POSTERIOR: 0.5}, {TARGET: 0.09, POSTERIOR: 0.6}]
    for finding in judged("x", runs, 2 * APART):
        assert not finding.held
        assert finding.statement.endswith(NOISY)

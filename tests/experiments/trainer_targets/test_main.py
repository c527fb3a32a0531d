"""Trainers reach their predicted targets on the world of 21 responses."""

import math

import pytest

from experiments.trainer_targets.__main__ import APART, TrainerTargets, judged, main
from experiments.trainer_targets.trainers import OURS
from experiments.trainer_targets.trl_trainers import TRL
from experiments.trainer_targets.worlds import POSTERIOR, TARGET, World
from inference import Estimate


def test_grpo_ends_at_its_own_target_and_rloo_at_the_posterior(tmp_path, capsys):
    args = TrainerTargets(only=("rloo", "grpo"), steps=60, seeds=1, out=tmp_path)
    findings = main(args)
    assert [finding.held for finding in findings] == [True, True, True]
    assert "The claim held: 3 of 3 findings." in capsys.readouterr().out
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
    means = {TARGET: Estimate(to_target, 0.0), POSTERIOR: Estimate(to_posterior, 0.0)}
    assert [finding.held for finding in judged("x", means, 2 * APART)] == held
    assert len(judged("x", means, 0.5 * APART)) == 1

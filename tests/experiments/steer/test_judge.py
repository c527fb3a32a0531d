"""Reward and constraints told apart, against enumeration."""

import pytest

from experiments.steer.judge import Judge
from inference import Enumeration, sample_prior
from inference.svi.anneal import soften
from model import AlignmentModel, Length, TextReward, Tilt, contains, vader_sentiment


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_judged_is_the_reward_without_what_constraints_cost(prior, prompts, penalty):
    taste, very = TextReward(vader_sentiment, prior), contains("very", prior)
    model = AlignmentModel(prior, taste, 0.5, {"very": very})
    target = model if penalty is None else soften(model, penalty)
    truth, judge = Enumeration(target, prompts), Judge(model)
    reward = taste(prompts, truth.support)
    forbidden = ~very.holds(prompts, truth.support)

    def exactly(law):
        return (law.exp() * reward).sum(0).mean().item(), (law.exp() * forbidden).sum(
            0
        ).mean().item()

    assert judge.features == {}
    of_prior = judge.of_draws(prompts, prior(prompts), 2000)
    of_posterior = judge.of_posterior(
        prompts, sample_prior(target, prompts, 2000, independent=True)
    )
    for found, (wanted, share) in (
        (of_prior, exactly(truth.log_prior)),
        (of_posterior, exactly(truth.log_posterior)),
    ):
        assert found.reward.value == pytest.approx(wanted, abs=4 * found.reward.standard_error)
        assert 0 < found.reward.standard_error < 0.05
        assert found.forbidden == pytest.approx(share, abs=0.04)


def test_a_tilt_is_no_reward_and_its_features_are_told(prior, prompts):
    taste, moments = (
        TextReward(vader_sentiment, prior),
        Tilt({"length": Length(prior)}, {"length": 1.5}),
    )
    model = AlignmentModel(prior, taste, 0.5, {"moments": moments})
    truth, judge = Enumeration(model, prompts), Judge(model)
    found = (
        judge.of_posterior(prompts, sample_prior(model, prompts, 2000, independent=True)),
        judge.of_draws(prompts, prior(prompts), 2000),
    )
    for judged, law in zip(found, (truth.log_posterior, truth.log_prior), strict=True):
        reward, length = (
            (law.exp() * piece(prompts, truth.support)).sum(0).mean().item()
            for piece in (taste, Length(prior))
        )
        assert judged.reward.value == pytest.approx(reward, abs=4 * judged.reward.standard_error)
        assert judged.moments["length"].value == pytest.approx(
            length, abs=4 * judged.moments["length"].standard_error
        )
        assert 0 < judged.moments["length"].standard_error < 0.1
        assert judged.forbidden == 0

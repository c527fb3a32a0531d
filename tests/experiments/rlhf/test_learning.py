"""The reward from preferences: label noise, ties and encoders."""

from dataclasses import replace

import pytest

from experiments.rlhf.learning import held_out, learn
from experiments.steer.choices import read_reward
from inference.reward_posterior.calibration import calibrate, predict
from model.preferences import Comparisons, EncoderFeatures, PriorFeatures, UncertainReward
from tests.experiments.rlhf.small import SMALL, prefer_longer


def test_label_noise_counts_on_held_out_preferences(prior):
    """Label noise turns labels of the test around as well."""
    preferences = prefer_longer(24)
    args = replace(SMALL, flip=0.3)
    model, posterior = learn(args, PriorFeatures(prior), preferences[:12], seed=0)
    comparisons = Comparisons.of(preferences[12:], posterior.features)
    with_noise, without = (
        calibrate(
            predict(model, comparisons, posterior.samples, label_noise=label_noise),
            comparisons.outcome,
        ).log_loss.value
        for label_noise in (True, False)
    )
    assert held_out(model, posterior, preferences[12:]).log_loss.value == with_noise != without


def test_the_strength_of_ties_can_be_given_and_is_0_without_ties(prior):
    features = PriorFeatures(prior)

    def strength(args, preferences):
        model, _ = learn(args, features, preferences, seed=0)
        return model.tie_strength

    ties, own = prefer_longer(12, ties=4), replace(SMALL, preferences=__file__)
    assert strength(SMALL, prefer_longer(12)) == 0
    assert strength(replace(own, tie_strength=0.3), ties) == 0.3
    assert strength(SMALL, ties) > 1  # at least 2 * share / (1 - share)


def test_a_reward_by_an_encoder_is_a_reward_for_steer(prior, encoder_folder, tmp_path):
    _, features = replace(SMALL, encoder=str(encoder_folder), device="cpu").load()
    assert isinstance(features, EncoderFeatures)
    _, posterior = learn(SMALL, features, prefer_longer(12), seed=0)
    posterior.save(tmp_path / "reward")

    prompts = prior.encode(["the film was"])
    response = prior(prompts).sample((5,))
    texts = [row[0] for row in prior.decode(response, prompts)]
    reward = read_reward(f"preferences:{tmp_path / 'reward'}").reward(prior)(prompts, response)
    assert reward[:, 0].tolist() == pytest.approx(
        UncertainReward(posterior, "lower-bound")(texts), abs=1e-5
    )
    (tmp_path / "encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(
        SystemExit, match=r"of the encoder .*encoder, which cannot be loaded: put it back"
    ):
        read_reward(f"preferences:{tmp_path / 'reward'}").reward(prior)

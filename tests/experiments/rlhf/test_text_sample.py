"""Texts of the prior with their gold rewards, and preferences simulated from them."""

from dataclasses import replace

import pytest
import torch


def test_pairs_that_do_not_exist_are_an_error_after_many_rounds(every):
    with pytest.raises(
        ValueError, match=r"only 0 are of different texts .* expected 2: raise the temperature"
    ):
        replace(every, texts=["good"] * len(every.texts)).preferences(2)
    texts = ["", *every.texts[1:]]
    preferences = replace(every, texts=texts, prompt="").preferences(300)
    assert not any("" in preference.texts for preference in preferences)


def test_preferences_follow_the_gold_reward(every):
    """P(chosen has more gold) as Bradley-Terry says, within five standard errors."""
    sharp = replace(every, gold=4 * every.gold)
    preferences = sharp.preferences(3000)
    gold_of = dict(zip(every.texts, sharp.gold.tolist(), strict=True))
    better = torch.tensor(
        [[gold_of[text] for text in preference.texts] for preference in preferences]
    )
    difference = better[:, 0] - better[:, 1]
    assert all(preference.chosen != preference.rejected for preference in preferences)
    expected = torch.sigmoid(difference.abs())[difference != 0]
    right = (difference > 0)[difference != 0].double()
    error = (expected * (1 - expected)).sum().sqrt() / len(expected)
    assert abs(right.mean() - expected.mean()) < 5 * error


def test_judged_pairs_are_left_out(every):
    def pairs(preferences):
        return {frozenset(preference.texts) for preference in preferences}

    train = every.preferences(200)
    assert pairs(train) & pairs(every.preferences(200))
    assert not pairs(train) & pairs(every.preferences(200, without=train))


def test_correlation_is_one_with_itself_and_blind_to_a_constant(every):
    assert every.correlation(3 * every.gold + 1) == pytest.approx(1)
    assert every.correlation(-every.gold) == pytest.approx(-1)

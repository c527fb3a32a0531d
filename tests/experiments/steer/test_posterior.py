"""Model of a run: rewards, constraints, factors and moments make its posterior."""

import math
from itertools import count

import pytest
import torch

from experiments.steer.choices import read_choices, read_moment, read_reward
from experiments.steer.posterior import (
    build_model,
    draw_prior,
    noise_warnings,
    rewards_of_functions,
)
from inference import Enumeration
from inference.programs import log_likelihood_at
from model import AlignmentModel, Constraint, TextReward, Tilt, WeightedSum, vader_sentiment
from model.preferences import LinearHead, PriorFeatures, RewardPosterior, StandardisedFeatures

SETTINGS = {"num_draws": 1000, "seed": 0}


def test_moments_are_met_and_unattainable_ones_exit(prior, prompts, capsys):
    choices = read_choices(["vader"], [], [], ["length=2.2", "words:not=0.3"])
    model = build_model(choices, prior, prompts, 0.5, **SETTINGS)
    assert "length: " in capsys.readouterr().out
    truth = Enumeration(model, prompts)
    for moment in choices[1:]:
        values = moment.reward(prior)(prompts, truth.support)
        assert (truth.log_posterior.exp() * values).sum(0).mean().item() == pytest.approx(
            moment.mean, abs=1e-8
        )
    with pytest.raises(
        SystemExit, match=r"--moment: no finite multipliers give the moments length 7 \(reached \d"
    ):
        build_model([choices[0], read_moment("length=7")], prior, prompts, 0.5, **SETTINGS)


def test_the_likelihood_is_rewards_and_constraints(prior, prompts):
    choices = read_choices(["words:good,bad", "-0.5*length"], ["regex:^very"])
    model = build_model(choices, prior, prompts, 1.0, **SETTINGS)
    assert [*model.rewards] == ["words:good,bad", "-0.5*length"]
    assert isinstance(model.rewards["-0.5*length"], WeightedSum)
    assert isinstance(model.factors["regex:^very>=1"], Constraint)
    truth = Enumeration(model, prompts)
    assert not read_reward("regex:^Very").reward(prior)(prompts, truth.support).any()
    texts = [row[0] for row in prior.decode(truth.support)]
    expected = [
        ("good" in text.split() or "bad" in text.split()) - 0.5 * len(text.split())
        if text.startswith("very")
        else -torch.inf
        for text in texts
    ]
    possible = truth.log_likelihood > -torch.inf
    assert possible[:, 0].tolist() == [value > -torch.inf for value in expected]
    rewards = [
        value
        for value, text in zip(truth.log_likelihood[:, 0].tolist(), texts, strict=True)
        if "<end>" not in text
    ]
    expected_rewards = [
        value for value, text in zip(expected, texts, strict=True) if "<end>" not in text
    ]
    assert rewards == pytest.approx(expected_rewards)


def test_a_reward_is_a_factor_in_nats_and_a_budget_holds_with_it(prior, prompts):
    choices = read_choices(["vader"], [], ["-0.5*length"])
    model = build_model(choices, prior, prompts, 0.1, {"max_kl": 0.5}, **SETTINGS)
    truth, vader = Enumeration(model, prompts), model.rewards["vader"]
    log_factor = truth.log_likelihood - vader(prompts, truth.support) / model.beta
    length = read_reward("length").reward(prior)(prompts, truth.support)
    torch.testing.assert_close(log_factor, -0.5 * length)
    kl = (truth.log_posterior.exp() * (truth.log_posterior - truth.log_prior)).sum(0).mean()
    assert kl.item() == pytest.approx(0.5, abs=1e-6)


def test_one_prompt_of_two_without_a_possible_draw_is_refused_by_name(prior, prompts):
    def is_first(prompts, response):
        log_factor = [0.0 if text == "the film was" else -math.inf for text in prompts.texts]
        return torch.tensor(log_factor).double().expand(response.shape[:-1])

    is_first.unit = "nat"
    model = AlignmentModel(prior, {}, 1.0, factors={"first": is_first})
    with pytest.raises(SystemExit, match="none of 8 draws of the prior after 'the plot was' meets"):
        draw_prior(model, model, prompts, 8)


def test_noise_of_a_reward_inside_another_counts_in_nats_of_the_likelihood(prior):
    noisy = TextReward(vader_sentiment, prior)
    inside = WeightedSum({"a": (2.0, WeightedSum({"b": (-0.5, noisy)})), "c": (3.0, noisy)})
    tilt = Tilt({"d": noisy}, {"d": -7.0})
    assert [nats for _, nats in rewards_of_functions(inside, 1 / 0.1)] == pytest.approx(
        [10.0, 30.0]
    )
    assert [nats for _, nats in rewards_of_functions(tilt, 1.0)] == [7.0]
    [(part, nats)] = rewards_of_functions(Constraint(noisy, at_least=0.5, name="e"), 1.0)
    assert part is noisy
    assert math.isnan(nats)


def test_noise_of_a_reward_of_a_class_of_its_own_is_a_warning(prior, prompts):
    class Judge(TextReward):
        pass

    number = count()
    model = AlignmentModel(prior, Judge(lambda texts: [next(number) for _ in texts], prior), 1.0)
    with pytest.warns(UserWarning, match="The first number is remembered for each text"):
        noise_warnings(model, prompts, prior(prompts).sample((4,)))


@pytest.fixture(scope="module")
def reward_folder(prior, tmp_path_factory):
    """A reward inferred from preferences, three draws."""
    folder = tmp_path_factory.mktemp("reward")
    features = StandardisedFeatures.fit(
        PriorFeatures(prior), ["a film", "the plot was", "the film"]
    )
    head = LinearHead(features.num_features)
    weights = torch.randn(3, head.num_weights, dtype=torch.float64)
    RewardPosterior(head, features, weights).save(folder)
    return folder


@pytest.mark.parametrize("beta", [0.2, 2.0])
def test_the_marginal_likelihood_is_that_at_the_models_beta(prior, prompts, reward_folder, beta):
    """log f = log mean_s exp(r_s/beta), beside a reward divided by the same beta."""
    choices = read_choices(["vader"], [], [f"marginal-likelihood:{reward_folder}"])
    model = build_model(choices, prior, prompts, beta, **SETTINGS)
    response = prior(prompts).sample((8,))
    draws = RewardPosterior.load(reward_folder, PriorFeatures(prior))
    texts = [text for row in prior.decode(response, prompts) for text in row]
    marginal = (draws(texts) / beta).exp().mean(0).log().view(response.shape[:-1])
    vader = read_reward("vader").reward(prior)(prompts, response)
    log_likelihood = log_likelihood_at(model, prompts, response)
    assert torch.allclose(log_likelihood, marginal.double() + vader / beta, atol=1e-5)

"""The posterior of a reward on texts, on disk, and in an `AlignmentModel`."""

import json
import math

import pytest
import torch

from inference import Enumeration, log_likelihood_at
from model import AlignmentModel, Constraint, Length, OtherBetaError, TextReward, Tilt, WeightedSum
from model.factors.marginal_likelihood import MARGINAL, MarginalLikelihood, log_marginal_likelihood
from model.preferences import (
    AGGREGATIONS,
    EncoderFeatures,
    LinearHead,
    MLPHead,
    OtherRewardError,
    PriorFeatures,
    RewardPosterior,
    StandardisedFeatures,
    UncertainReward,
    saved_features,
    uncertain_model,
)
from model.preferences.aggregation import lower_bound

TEXTS = ["the film was good", "the plot was dull", "the film was bad", "the plot was very good"]


@pytest.fixture(scope="module")
def posterior(prior):
    features = StandardisedFeatures.fit(PriorFeatures(prior), TEXTS)
    samples = torch.randn(7, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return RewardPosterior(LinearHead(32), features, samples)


def test_marginal_likelihood_of_a_gaussian_reward_is_its_mean_and_a_bonus():
    """E[exp(r/beta)] = exp(mean/beta + var/(2 beta^2)), with r at the quantiles of a Gaussian."""
    mean, deviation, beta = 0.7, 0.6, 0.5
    levels = (torch.arange(200_000).double() + 0.5) / 200_000
    rewards = mean + deviation * torch.special.ndtri(levels)[:, None]
    actual = beta * log_marginal_likelihood(rewards, beta).item()
    assert actual == pytest.approx(mean + deviation**2 / (2 * beta), rel=1e-4)
    assert math.exp(actual / beta) == pytest.approx(
        math.exp(mean / beta + deviation**2 / (2 * beta**2)), rel=1e-3
    )


def test_signs_of_uncertainty():
    """Equal means: marginal likelihood favours the less certain response.

    The mean is indifferent, and the other aggregations avoid the response.
    """
    rewards = torch.tensor([[0.9, 0.0], [1.1, 2.0]]).double()  # [S, M], means 1 and 1
    difference = {
        name: 0.3 * (r[1] - r[0]).item()
        for name, r in ((n, a(rewards, 0.3)) for n, a in AGGREGATIONS.items())
    }
    assert difference["marginal-likelihood"] > 0.1
    assert difference["mean"] == 0
    assert difference["lower-bound"] == pytest.approx(-(1 - 0.1))
    assert difference["minimum"] == pytest.approx(-0.9)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_certain_rewards_are_unchanged(name):
    one = torch.tensor([[0.3, -2.0]]).double()
    assert torch.allclose(0.1 * AGGREGATIONS[name](one, 0.1), one[0])
    assert torch.allclose(0.1 * AGGREGATIONS[name](one.expand(5, 2), 0.1), one[0])


def test_the_marginal_likelihood_goes_from_the_mean_to_the_maximum():
    rewards = torch.tensor([[0.0], [1.0], [5.0]]).double()
    assert 1e4 * log_marginal_likelihood(rewards, 1e4).item() == pytest.approx(2, abs=1e-3)
    assert 1e-4 * log_marginal_likelihood(rewards, 1e-4).item() == pytest.approx(5, abs=1e-3)
    assert lower_bound(rewards, k=0).item() == 2


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_the_posterior_is_that_of_the_aggregated_rewards(prior, posterior, name):
    prompts = prior.encode(["the film was"])
    truth = Enumeration(uncertain_model(prior, posterior, name, 0.5), prompts)
    texts = [row[0] for row in prior.decode(truth.support, prompts)]
    rewards = posterior.features(texts) @ posterior.samples.T  # [M, S]
    assert torch.allclose(truth.log_likelihood[:, 0], AGGREGATIONS[name](rewards.T, 0.5))


def test_an_aggregation_of_ones_own_is_a_reward(prior, posterior):
    prompts = prior.encode(["the film was"])
    reward = TextReward(UncertainReward(posterior, lambda rewards: rewards[0]), prior)
    truth = Enumeration(AlignmentModel(prior, reward, beta=0.5), prompts)
    texts = [row[0] for row in prior.decode(truth.support, prompts)]
    assert torch.allclose(truth.log_likelihood[:, 0], posterior(texts)[0] / 0.5)


def test_the_marginal_likelihood_is_a_factor_of_one_beta(prior, posterior):
    prompts = prior.encode(["the film was"])
    factor = MarginalLikelihood(posterior, prior, 0.3)
    support = prior(prompts).enumerate_support()
    texts = [row[0] for row in prior.decode(support, prompts)]
    expected = log_marginal_likelihood(posterior(texts), 0.3)[:, None]
    length = Length(prior)
    model = AlignmentModel(prior, length, 0.3, {"uncertain": factor})
    assert torch.allclose(
        log_likelihood_at(model, prompts, support), length(prompts, support) / 0.3 + expected
    )
    levels = expected[:, 0].sort().values
    gap = (levels.diff()[100:-100].argmax() + 100).item()  # none is rounded across this threshold
    threshold = levels[gap : gap + 2].mean().item()
    above = AlignmentModel(prior, {}, 0.3, {"above": Constraint(factor, at_least=threshold)})
    assert torch.equal(Enumeration(above, prompts).log_likelihood == 0, expected >= threshold)


def test_a_factor_of_one_beta_is_refused_at_another_and_as_a_reward(prior, posterior):
    factor = MarginalLikelihood(posterior, prior, 0.3)
    above = Constraint(factor, at_least=0.0)
    for beta in (0.2, {"the film was": 0.3, "the plot was": 0.2}):
        for name, piece in {"uncertain": factor, "above": above}.items():
            match = rf"factor '{name}' was made for beta 0\.3, .* beta .*0\.2"
            with pytest.raises(OtherBetaError, match=match):
                AlignmentModel(prior, {}, beta, {name: piece})
    AlignmentModel(prior, {}, {"the film was": 0.3}, {"uncertain": factor})
    for piece in (factor, above, Tilt({"length": Length(prior)}, {"length": 1.0})):
        with pytest.raises(ValueError, match=r"reward 'it' is or contains a .*factor in nats"):
            AlignmentModel(prior, {"it": piece}, 0.3)
        with pytest.raises(ValueError, match=r"reward 'it' is or contains a .*factor in nats"):
            WeightedSum({"it": (1.0, piece)})


def test_unknown_aggregations_are_refused(prior, posterior):
    with pytest.raises(ValueError, match="marginal-likelihood is a factor"):
        UncertainReward(posterior, MARGINAL)
    with pytest.raises(ValueError, match="aggregation is 'median', expected one of: marginal"):
        uncertain_model(prior, posterior, "median", 1.0)
    with pytest.raises(ValueError, match="beta is 0"):
        MarginalLikelihood(posterior, prior, 0)


@pytest.mark.parametrize("head", [LinearHead(32), MLPHead(32, 3)])
def test_saved_and_loaded_posterior_is_the_same(posterior, head, tmp_path):
    samples = torch.randn(2, head.num_weights).double()
    saved = RewardPosterior(head, posterior.features, samples)
    saved.save(tmp_path / "reward")
    loaded = RewardPosterior.load(tmp_path / "reward", posterior.features.features)
    assert loaded.head == head
    assert torch.equal(loaded(["the film was dull"]), saved(["the film was dull"]))


def test_parts_that_do_not_fit_are_refused(prior, posterior, tmp_path):
    with pytest.raises(OtherRewardError, match=r"has no reward\.safetensors"):
        RewardPosterior.load(tmp_path, PriorFeatures(prior))
    posterior.save(tmp_path)
    match = "PriorFeatures of 32 dimensions there, function of 5 here"
    with pytest.raises(OtherRewardError, match=match):
        RewardPosterior.load(tmp_path, lambda texts: torch.zeros(len(texts), 5))
    with pytest.raises(OtherRewardError, match="differ on a text read by both"):
        RewardPosterior.load(tmp_path, lambda texts: -PriorFeatures(prior)(texts))
    record = json.loads((tmp_path / "reward.json").read_text())
    (tmp_path / "reward.json").write_text(json.dumps(record | {"head": "deep"}))
    (tmp_path / "digests.json").unlink()
    with pytest.raises(OtherRewardError, match="a head 'deep', expected one of: linear, mlp"):
        RewardPosterior.load(tmp_path, PriorFeatures(prior))
    with pytest.raises(ValueError, match=r"samples have shape \(32,\), expected \[S, 32\]"):
        RewardPosterior(LinearHead(32), posterior.features, posterior.samples[0])


def test_a_saved_reward_names_its_features(prior, posterior, encoder_folder, tmp_path, monkeypatch):
    posterior.save(tmp_path / "of-prior")
    assert isinstance(saved_features(tmp_path / "of-prior", prior), PriorFeatures)

    monkeypatch.chdir(tmp_path)
    features = EncoderFeatures.from_pretrained("encoder", device="cpu", max_length=3)
    saved = RewardPosterior(
        LinearHead(2),
        StandardisedFeatures.fit(features, TEXTS, num_components=2),
        torch.ones(1, 2).double(),
    )
    saved.save("of-encoder")
    folder = tmp_path / "of-encoder"
    assert str(tmp_path) not in (folder / "reward.json").read_text()
    monkeypatch.chdir("/")  # the path is one from the reward's folder
    actual = saved_features(folder, prior)
    assert isinstance(actual, EncoderFeatures)
    assert actual.max_length == 3
    assert torch.allclose(RewardPosterior.load(folder, actual)(TEXTS), saved(TEXTS))

    encoder_folder.rename(tmp_path / "elsewhere")
    match = rf"of the encoder {encoder_folder}, which cannot be loaded: put it back"
    with pytest.raises(OtherRewardError, match=match):
        saved_features(folder, prior)


@pytest.mark.parametrize("features", [None, "PriorFeatures", {}])
def test_a_saved_reward_without_the_name_of_features_is_damaged(
    prior, posterior, tmp_path, features
):
    posterior.save(tmp_path)
    record = json.loads((tmp_path / "reward.json").read_text())
    (tmp_path / "reward.json").write_text(json.dumps(record | {"features": features}))
    (tmp_path / "digests.json").unlink()
    with pytest.raises(OtherRewardError, match=r"reward\.json is damaged"):
        saved_features(tmp_path, prior)


def test_features_of_ones_own_are_not_guessed(prior, tmp_path):
    def lengths(texts):
        return torch.tensor([[float(len(text))] for text in texts]).double()

    RewardPosterior(
        LinearHead(1), StandardisedFeatures.fit(lengths, TEXTS), torch.ones(1, 1).double()
    ).save(tmp_path)
    match = r"has features of the user, function: use .RewardPosterior\.load"
    with pytest.raises(OtherRewardError, match=match):
        saved_features(tmp_path, prior)
    assert RewardPosterior.load(tmp_path, lengths)(TEXTS).shape == (1, 4)

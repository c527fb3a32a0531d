"""A reward's posterior on texts, on disk, and as evidence."""

import json
import math

import pytest
import torch
from transformers import BertConfig, BertModel

from inference import Enumeration, log_evidence_at
from model import AlignmentModel, Constraint, TextEvidence, WeightedSum
from model.preferences import (
    AGGREGATIONS,
    EncoderFeatures,
    LinearHead,
    MLPHead,
    OtherRewardError,
    PriorFeatures,
    RewardPosterior,
    Standardised,
    UncertainReward,
    lower_bound,
    marginal_likelihood,
    saved_features,
)

TEXTS = ["the film was good", "the plot was dull", "the film was bad", "the plot was very good"]


@pytest.fixture(scope="module")
def posterior(prior):
    features = Standardised.fit(PriorFeatures(prior), TEXTS)
    samples = torch.randn(7, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return RewardPosterior(LinearHead(32), features, samples)


def test_marginal_likelihood_of_a_gaussian_reward_is_its_mean_and_a_bonus():
    """E[exp(r/beta)] = exp(mean/beta + var/(2 beta^2)): r at the quantiles of its law, so that the mean is an integral."""
    mean, deviation, beta = 0.7, 0.6, 0.5
    levels = (torch.arange(200_000).double() + 0.5) / 200_000
    rewards = mean + deviation * torch.special.ndtri(levels)[:, None]
    found = marginal_likelihood(rewards, beta).item()
    assert found == pytest.approx(mean + deviation**2 / (2 * beta), rel=1e-4)
    assert math.exp(found / beta) == pytest.approx(math.exp(mean / beta + deviation**2 / (2 * beta**2)), rel=1e-3)


def test_signs_of_uncertainty():
    """At equal means, the marginal likelihood likes the less certain response, the mean does not care, the others shun it."""
    rewards = torch.tensor([[0.9, 0.0], [1.1, 2.0]]).double()  # [S, M], means 1 and 1
    difference = {name: (r[1] - r[0]).item() for name, r in ((n, a(rewards, 0.3)) for n, a in AGGREGATIONS.items())}
    assert difference["marginal-likelihood"] > 0.1
    assert difference["mean"] == 0
    assert difference["lower-bound"] == pytest.approx(-(1 - 0.1))
    assert difference["minimum"] == pytest.approx(-0.9)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_certain_rewards_stay_what_they_are(name):
    one = torch.tensor([[0.3, -2.0]]).double()
    assert torch.allclose(AGGREGATIONS[name](one, 0.1), one[0])
    assert torch.allclose(AGGREGATIONS[name](one.expand(5, 2), 0.1), one[0])


def test_the_marginal_likelihood_goes_from_the_mean_to_the_maximum():
    rewards = torch.tensor([[0.0], [1.0], [5.0]]).double()
    assert marginal_likelihood(rewards, 1e4).item() == pytest.approx(2, abs=1e-3)
    assert marginal_likelihood(rewards, 1e-4).item() == pytest.approx(5, abs=1e-3)
    assert lower_bound(rewards, 1.0, k=0).item() == 2


@pytest.mark.parametrize("aggregation", [*AGGREGATIONS, lambda rewards, beta: rewards[0]])
def test_it_is_evidence_in_the_model(prior, posterior, aggregation):
    """The exact posterior over responses is that of the aggregated rewards."""
    reward = TextEvidence(UncertainReward(posterior, aggregation), prior)
    prompts = prior.encode(["the film was"])
    Enumeration(AlignmentModel(prior, reward, beta=2.0), prompts)  # of which nothing is remembered where beta is another
    truth = Enumeration(AlignmentModel(prior, reward, beta=0.5), prompts)
    texts = [row[0] for row in prior.decode(truth.support, prompts)]
    rewards = posterior.features(texts) @ posterior.samples.T  # [M, S]
    aggregate = AGGREGATIONS[aggregation] if isinstance(aggregation, str) else aggregation
    assert torch.allclose(truth.log_evidence[:, 0], aggregate(rewards.T, 0.5) / 0.5)


def test_the_marginal_likelihood_is_at_the_models_beta_inside_other_evidence_too(prior, posterior):
    prompts = prior.encode(["the film was"])
    reward = TextEvidence(UncertainReward(posterior, "marginal-likelihood"), prior)
    support = prior(prompts).enumerate_support()
    texts = [row[0] for row in prior.decode(support, prompts)]
    at_beta = marginal_likelihood(posterior(texts), 0.3)[:, None]
    summed = AlignmentModel(prior, WeightedSum({"once": (1.0, reward)}), beta=0.3)
    assert torch.allclose(log_evidence_at(summed, prompts, support), at_beta / 0.3)
    with pytest.raises(ValueError, match="'twice' depends on beta and has the weight 2, expected 1"):
        AlignmentModel(prior, WeightedSum({"twice": (2.0, reward)}), beta=0.3)
    levels = at_beta[:, 0].sort().values
    gap = (levels.diff()[100:-100].argmax() + 100).item()  # a threshold that is no reward: none is rounded across it
    threshold = levels[gap : gap + 2].mean().item()
    above = AlignmentModel(prior, Constraint(reward, at_least=threshold), beta=0.3)
    assert torch.equal(Enumeration(above, prompts).log_evidence == 0, at_beta >= threshold)


def test_without_a_beta_or_with_several_the_marginal_likelihood_is_none(prior, posterior):
    uncertain = UncertainReward(posterior, "marginal-likelihood")
    with pytest.raises(ValueError, match="'marginal-likelihood' depends on beta, which is not set"):
        uncertain(["the film was good"])
    with pytest.raises(ValueError, match="expected one beta for all prompts"):
        AlignmentModel(prior, TextEvidence(uncertain, prior), {"the film was": 0.3})
    assert UncertainReward(posterior, lower_bound)(["the film was good"])
    assert UncertainReward(posterior, "mean").at_beta({"the film was": 0.3})(["the film was good"])


def test_unknown_aggregations_are_refused(posterior):
    with pytest.raises(ValueError, match="aggregation is 'median', expected one of: marginal-likelihood"):
        UncertainReward(posterior, "median", 1.0)
    with pytest.raises(ValueError, match="beta is 0"):
        UncertainReward(posterior, "mean", 0)


@pytest.mark.parametrize("head", [LinearHead(32), MLPHead(32, 3)])
def test_saved_and_loaded_it_is_the_same(prior, posterior, head, tmp_path):
    samples = torch.randn(2, head.num_weights).double()
    saved = RewardPosterior(head, posterior.features, samples)
    saved.save(tmp_path / "reward")
    loaded = RewardPosterior.load(tmp_path / "reward", PriorFeatures(prior))
    assert loaded.head == head
    assert torch.equal(loaded(["the film was dull"]), saved(["the film was dull"]))


def test_what_does_not_fit_is_refused(prior, posterior, tmp_path):
    with pytest.raises(OtherRewardError, match=r"has no reward\.safetensors"):
        RewardPosterior.load(tmp_path, PriorFeatures(prior))
    posterior.save(tmp_path)
    with pytest.raises(OtherRewardError, match="PriorFeatures of 32 dimensions there, function of 5 here"):
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


@pytest.fixture
def encoder(prior, tmp_path):
    """A tiny encoder in a folder."""
    sizes = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "encoder")
    prior.tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_saved_reward_says_what_its_features_are(prior, posterior, encoder, tmp_path, monkeypatch):
    posterior.save(tmp_path / "of-prior")
    assert isinstance(saved_features(tmp_path / "of-prior", prior), PriorFeatures)

    monkeypatch.chdir(tmp_path)
    features = EncoderFeatures.from_pretrained("encoder", device="cpu", max_length=3)
    saved = RewardPosterior(LinearHead(2), Standardised.fit(features, TEXTS, num_components=2), torch.ones(1, 2).double())
    saved.save("of-encoder")
    folder = tmp_path / "of-encoder"
    assert str(tmp_path) not in (folder / "reward.json").read_text()
    monkeypatch.chdir("/")  # the path is one from the reward's folder
    found = saved_features(folder, prior)
    assert isinstance(found, EncoderFeatures)
    assert found.max_length == 3
    assert torch.allclose(RewardPosterior.load(folder, found)(TEXTS), saved(TEXTS))

    encoder.rename(tmp_path / "elsewhere")
    with pytest.raises(OtherRewardError, match=rf"of the encoder {encoder}, which cannot be loaded: put it back"):
        saved_features(folder, prior)


@pytest.mark.parametrize("features", [None, "PriorFeatures", {}])
def test_a_reward_that_does_not_say_what_its_features_are_is_damaged(prior, posterior, tmp_path, features):
    posterior.save(tmp_path)
    record = json.loads((tmp_path / "reward.json").read_text())
    (tmp_path / "reward.json").write_text(json.dumps(record | {"features": features}))
    (tmp_path / "digests.json").unlink()
    with pytest.raises(OtherRewardError, match=r"reward\.json is damaged"):
        saved_features(tmp_path, prior)


def test_features_of_ones_own_are_not_guessed(prior, tmp_path):
    def lengths(texts):
        return torch.tensor([[float(len(text))] for text in texts]).double()

    RewardPosterior(LinearHead(1), Standardised.fit(lengths, TEXTS), torch.ones(1, 1).double()).save(tmp_path)
    with pytest.raises(OtherRewardError, match=r"does not say how to make its features, function: .*RewardPosterior\.load"):
        saved_features(tmp_path, prior)
    assert RewardPosterior.load(tmp_path, lengths)(TEXTS).shape == (1, 4)

"""Agents: Bayes' rule for their weights is exact, and guides by SVI are near."""

import pytest
import torch

from experiments.agents import __main__ as script
from experiments.agents.__main__ import Agents, main
from experiments.agents.grammar import SPEAKERS, spoken_sentences
from experiments.agents.speakers import (
    AGENTS,
    bayes_twice,
    log_agent_weights,
    log_agent_z,
    responsibilities,
    speaker_probs,
)
from experiments.guide_zoo.family_optimum import family_optimum
from guides import Tabular
from inference import Enumeration
from model import AlignmentModel, LanguageModel, TextReward, grammar_prior, vader_sentiment
from model.prior.grammar import WORDS


@pytest.fixture(scope="module")
def spoken() -> LanguageModel:
    return grammar_prior(3, sentences=spoken_sentences())


@pytest.fixture(scope="module")
def model(spoken) -> AlignmentModel:
    return AlignmentModel(spoken, TextReward(vader_sentiment, spoken), 0.4)


@pytest.fixture(scope="module")
def truth(model) -> Enumeration:
    return Enumeration(model, model.prior.encode(["the film was"]))


def test_speakers_are_a_mixture_over_words_of_the_grammar():
    sentences = spoken_sentences()
    assert sum(sentences.values()) == pytest.approx(1, abs=1e-12)
    assert sentences["the film was very good"] == pytest.approx(
        0.6 * (0.3 * 0.6 * 0.8 + 0.5 * 0.1 * 0.3), abs=1e-15
    )
    assert {word for text in sentences for word in text.split()} <= set(WORDS)
    for speaker in SPEAKERS.values():
        assert sum(speaker.sentences().values()) == pytest.approx(1, abs=1e-12)


def test_speaker_of_a_text_follows_bayes_rule_on_the_grammar():
    critic, bore = 0.5 * 0.6 * 0.2 * 0.3, 0.2 * 0.6 * 0.1 * 0.2
    expected = [0, critic / (critic + bore), bore / (critic + bore), 0]
    assert AGENTS == ("enthusiast", "critic", "bore", "none")
    assert speaker_probs("the film was not very good") == pytest.approx(expected)
    assert speaker_probs("the film was film") == [0, 0, 0, 1]


def test_responsibilities_of_every_response_sum_to_one(spoken, truth):
    rho = responsibilities(spoken, truth)
    total = rho.sum(0)
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert log_agent_weights(truth.log_prior, rho).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_the_trained_prior_has_nearly_the_shares_of_the_grammar(spoken, truth):
    before = log_agent_weights(truth.log_prior, responsibilities(spoken, truth)).exp()
    for weight, speaker in zip(before, SPEAKERS.values(), strict=False):
        assert weight.item() == pytest.approx(speaker.share, abs=0.02)


def test_bayes_rule_is_exact(spoken, model, truth):
    """pi_a Z_a / Z, with Z_a = E[exp(r/beta)] under p_a written out here."""
    rho = responsibilities(spoken, truth)
    after = log_agent_weights(truth.log_posterior, rho).exp()
    for a, name in enumerate(AGENTS):
        joint = truth.log_prior[:, 0].exp() * rho[a]
        share = joint.sum()
        mean = (joint / share * truth.log_likelihood[:, 0].exp()).sum()  # Z_a
        by_program = log_agent_z(name, model, truth.prompts)
        assert (share * mean).log().item() == pytest.approx(by_program.item(), abs=1e-10)
        by_bayes = (share * mean / truth.log_z.exp()).item()
        assert by_bayes == pytest.approx(after[a].item(), abs=1e-10)


@pytest.mark.parametrize("beta", [0.5, 1e-3, 1e-4])
def test_bayes_twice_is_bayes_once(spoken, beta):
    """Also where weights and likelihoods are out of the range of floating-point numbers."""
    prompts, reward = spoken.encode(["the plot was"]), TextReward(vader_sentiment, spoken)
    table, error = bayes_twice(spoken, prompts, reward, beta)
    assert error < 1e-12 * max(1.0, 0.5 / beta)
    assert table.count("then") == 2


@pytest.fixture
def _trained(spoken, monkeypatch):
    monkeypatch.setattr(script, "grammar_prior", lambda *_, **__: spoken)


@pytest.mark.slow
@pytest.mark.usefixtures("_trained")
def test_script(tmp_path, capsys, monkeypatch):
    """With the posterior itself for a guide all findings hold."""

    def best(prior):
        model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
        prompts = prior.encode(["the film was"])
        truth = Enumeration(model, prompts)
        return family_optimum(truth, lambda: Tabular(prior, prompts), "reverse").guide

    monkeypatch.setattr(script, "FineTuned", best)
    monkeypatch.setattr(script, "train", lambda *_, **__: None)
    findings = main(Agents(betas=(0.3,), seeds=1, out=tmp_path))
    assert [finding.held for finding in findings] == [True] * 3, findings
    printed = capsys.readouterr().out
    assert "The claim held" in printed
    assert "pi_a Z_a / Z" in printed
    assert len(list(tmp_path.rglob("agents.svg"))) == 1


@pytest.mark.usefixtures("_trained")
def test_script_trains_its_own_guides(tmp_path):
    findings = main(Agents(betas=(1.0,), steps=20, seeds=2, out=tmp_path))
    assert [finding.held for finding in findings[:2]] == [True] * 2


@pytest.mark.usefixtures("_trained")
def test_a_guide_far_from_the_posterior_does_not_pass(tmp_path, monkeypatch):
    """Untrained guides have the agents of the prior, and the claim fails on the guides alone."""
    monkeypatch.setattr(script, "train", lambda *_, **__: None)
    findings = main(Agents(betas=(0.3,), seeds=2, out=tmp_path))
    assert [finding.held for finding in findings] == [True, True, False]

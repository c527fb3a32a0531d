"""Agents: Bayes' rule on them is exact, and what SVI gives a guide is near it."""

import math

import pytest
import torch

from experiments import agents
from experiments.agents import (
    NONE,
    Agents,
    bayes_twice,
    log_z_of,
    main,
    mixture,
    responsibilities,
    who_said,
)
from experiments.guide_zoo.family_optimum import family_optimum
from guides import Tabular
from inference import Enumeration
from model import AlignmentModel, LanguageModel, grammar_prior
from model.prior.grammar import SPEAKERS, spoken_sentences
from model.registry import REWARDS


@pytest.fixture(scope="module")
def spoken() -> LanguageModel:
    return grammar_prior(3, sentences=spoken_sentences(SPEAKERS))


@pytest.fixture(scope="module")
def truth(spoken) -> Enumeration:
    return Enumeration(
        AlignmentModel(spoken, REWARDS["vader"](spoken), 0.4), spoken.encode(["the film was"])
    )


def test_who_said_what_is_bayes_rule_on_the_grammar():
    said = who_said("the film was not very good", SPEAKERS)
    critic, bore = 0.5 * 0.6 * 0.2 * 0.3, 0.2 * 0.6 * 0.1 * 0.2
    assert said == pytest.approx(
        {
            "enthusiast": 0,
            "critic": critic / (critic + bore),
            "bore": bore / (critic + bore),
            NONE: 0,
        }
    )
    assert who_said("the film was film", SPEAKERS)[NONE] == 1


def test_every_response_has_agents_that_sum_to_one(spoken, truth):
    rho = responsibilities(spoken, truth, SPEAKERS)
    total = sum(rho.values())
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert sum(mixture(truth.log_prior, rho).values()) == pytest.approx(1, abs=1e-10)


def test_the_trained_prior_has_nearly_the_shares_of_the_grammar(spoken, truth):
    before = mixture(truth.log_prior, responsibilities(spoken, truth, SPEAKERS))
    for name, speaker in SPEAKERS.items():
        assert before[name] == pytest.approx(speaker.share, abs=0.02)


def test_bayes_rule_is_exact(spoken, truth):
    """pi_a Z_a / Z, with Z_a = E[exp(r/beta)] under p_a written out here."""
    rho = responsibilities(spoken, truth, SPEAKERS)
    after = mixture(truth.log_posterior, rho)
    reward = REWARDS["vader"](spoken)
    for name, of_agent in rho.items():
        joint = truth.log_prior.exp() * of_agent
        share = joint.sum()
        mean = (joint / share * truth.log_likelihood.exp()).sum()  # Z_a
        by_program = log_z_of(name, spoken, truth.prompts, reward, 0.4)
        assert (share * mean).log().item() == pytest.approx(by_program.item(), abs=1e-10)
        assert (share * mean / truth.log_z.exp()).item() == pytest.approx(after[name], abs=1e-10)


def test_bayes_twice_is_bayes_once(spoken):
    table, error = bayes_twice(
        spoken, spoken.encode(["the plot was"]), REWARDS["vader"](spoken), 0.5
    )
    assert error < 1e-12
    assert table.count("then") == 2


@pytest.fixture
def _trained(spoken, monkeypatch):
    monkeypatch.setattr(agents, "grammar_prior", lambda *_, **__: spoken)


@pytest.mark.slow
@pytest.mark.usefixtures("_trained")
def test_script(tmp_path, capsys, monkeypatch):
    """With the posterior itself for a guide all holds."""

    def best(model, prompts, *_):
        return family_optimum(
            Enumeration(model, prompts), lambda: Tabular(model.prior, prompts), "reverse"
        ).guide

    monkeypatch.setattr(agents, "train_guide", best)
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
    """Untrained, its agents are the prior's, and the claim fails on that alone."""
    monkeypatch.setattr(agents, "train_guide", lambda model, *_: agents.FineTuned(model.prior))
    findings = main(Agents(betas=(0.3,), seeds=2, out=tmp_path))
    assert [finding.held for finding in findings] == [True, True, False]


def test_kl_of_mixtures():
    assert agents.kl({"a": 0.5, "b": 0.5}, {"a": 0.25, "b": 0.75}) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )

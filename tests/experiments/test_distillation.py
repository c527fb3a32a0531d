"""Distillation of best of n: shares of the distance, and findings that fail with the claim."""

import pytest

from experiments import distillation
from experiments.distillation import Distillation, excess, main, new_kinds, new_world
from experiments.guide_zoo.family_optimum import family_optimum
from experiments.shared import zoo
from guides import Fixed, Tabular
from inference import Enumeration, Estimate
from model import AlignmentModel, LanguageModel


@pytest.fixture
def grammar(prior, monkeypatch):
    """The grammar with 91 responses."""
    prior = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=2)
    monkeypatch.setattr(distillation, "grammar_prior", lambda **_: prior)
    return prior


def kl(log_prob, log_target):
    return (log_prob.exp() * (log_prob - log_target)).sum().item()


@pytest.mark.parametrize("learned", [False, True])
def test_distillation_leaves_a_share_of_the_prior_s_kl(
    learned, grammar, tmp_path, capsys, monkeypatch
):
    """KL(q || best of n) over KL(p0 || best of n), for trained and untrained guides."""
    world = new_world("grammar", 0)
    guide = Fixed(grammar)
    if learned:  # the best of 4 is near this posterior
        reward = world.model.rewards
        posterior = Enumeration(AlignmentModel(grammar, reward, 0.52), world.prompts)
        guide = family_optimum(
            posterior, lambda: Tabular(grammar, world.prompts), "reverse", max_iter=40
        ).guide
    monkeypatch.setattr(distillation, "FineTuned", lambda _: guide)
    monkeypatch.setattr(distillation, "train", lambda *_, **__: None)
    findings = main(Distillation(sizes=(4,), betas=(0.6,), seeds=2, out=tmp_path))
    best = world.truth.log_prior + new_kinds(world, [], [4])["distilled, n = 4"].log_ratio
    left, start = kl(world.truth.log_guide(guide), best), kl(world.truth.log_prior, best)
    statement = f"share of KL(p0 || best of 4) that distillation leaves: {left / start:.2g} (below"
    assert findings[-1].statement.startswith(statement)
    assert findings[-1].held == learned == (left < 0.2 * start)
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("distilled")]
    assert f"{left:.3g} ± 0" in row
    assert all(finding.held for finding in findings[:-1])


def test_a_guide_above_the_posteriors_is_a_failed_finding(grammar, tmp_path, monkeypatch):
    sample = new_world("grammar", 0).sample
    highest = sample.frontier_at(0.5)
    above = {"KL(q||p0)": Estimate(0.5, 0.0), "E[r]": Estimate(highest + 1e-3, 0.0)}
    assert excess(sample, above) == pytest.approx(1e-3)
    assert excess(sample, {**above, "E[r]": Estimate(highest + 1e-3, 1e-3)}) < 0, "noise"
    monkeypatch.setattr(distillation, "train", lambda *_, **__: None)
    monkeypatch.setattr(distillation, "excess", lambda *_: 1e-3)
    findings = main(Distillation(sizes=(2,), betas=(0.6,), seeds=1, out=tmp_path))
    assert not findings[0].held
    assert findings[0].statement.startswith("no guide is above the posteriors")


@pytest.mark.slow
def test_script(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distillation, "grammar_prior", lambda **_: prior)
    args = Distillation(sizes=(4,), betas=(0.6,), steps=3, seeds=2, out=tmp_path)
    assert [finding.held for finding in main(args)] == [True, False], "3 steps do not distil"
    assert "did NOT hold" in capsys.readouterr().out
    assert {path.name for path in tmp_path.rglob("*.svg")} == {"grammar.svg"}


@pytest.mark.slow
def test_script_on_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "NUM_SAMPLES", 64)
    small = {"sizes": (16,), "betas": (0.1,), "steps": 1, "seeds": 1, "draws": 320}
    args = Distillation(world="film-reviews", **small, out=tmp_path)
    assert [finding.held for finding in main(args)] == [True]
    assert "posterior's E[r]" in capsys.readouterr().out
    assert {path.name for path in tmp_path.rglob("*.svg")} == {"film-reviews.svg"}

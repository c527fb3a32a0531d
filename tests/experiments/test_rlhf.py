"""From preferences to a guide, small: what it finds, what it writes, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch

from experiments.registry import load_prior
from experiments.reward_bank import Bank, sweep
from experiments.rlhf import RLHF, main
from experiments.rlhf_simulated import Run, findings
from inference import Enumeration
from model import AlignmentModel, TextEvidence, grammar_prior, vader_sentiment
from model.preferences import (
    AGGREGATIONS,
    MLPHead,
    Preference,
    PriorFeatures,
    RewardPosterior,
    read_preferences,
    write_preferences,
)

SMALL = RLHF(
    num_preferences=(20, 60),
    seeds=2,
    draws=200,
    min_effective=10,
    betas=12,
    components=8,
    reward_samples=8,
    simulations=10,
    steps=2,
    particles=4,
    samples=16,
    max_new_tokens=4,
    threads=1,
)


def gold(texts):
    return torch.tensor(vader_sentiment(texts), dtype=torch.float64)


def test_simulated_preferences_to_a_guide(tmp_path, capsys):
    folder = main(replace(SMALL, out=tmp_path))
    printed = capsys.readouterr().out
    for expected in ("Claim: gold", "The reward, next word", "all KL exact", "p = ", "A guide, twisted", "The claim"):
        assert expected in printed
    runs = [json.loads(line) for line in (folder.path / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 2 * 2 * 2
    assert all(run["measured"][f"{name} fall"] >= 0 for run in runs for name in AGGREGATIONS)
    assert len(read_preferences(folder.path / "preferences.jsonl")) == 60
    assert folder.report.read_text().count("<svg") == 4
    assert (folder.guide / "guide.safetensors").is_file()
    assert json.loads((folder.guide / "guide.json").read_text())["guide"] == "twisted"
    assert (folder.path / "report.txt").read_text().strip() in printed


def test_a_file_of_preferences_to_a_guide(tmp_path, capsys):
    first = main(replace(SMALL, out=tmp_path, num_preferences=(40,), seeds=1, simulations=0))
    capsys.readouterr()
    folder = main(replace(SMALL, out=tmp_path, preferences=first.path / "preferences.jsonl", inference="map"))
    printed = capsys.readouterr().out
    assert "on 8 held out: accuracy" in printed
    assert "gold" not in printed
    prior = load_prior("film-reviews", max_new_tokens=4, temperature=0.7, dtype="float32", device="cpu")
    reward = RewardPosterior.load(folder.path / "reward", PriorFeatures(prior))
    assert reward(["The film was great"]).shape == (1, 1)


def test_head_with_a_hidden_layer(tmp_path, capsys):
    args = replace(SMALL, head="mlp", inference="ensemble", reward_samples=2, num_preferences=(20,), simulations=0)
    folder = main(replace(args, out=tmp_path, seeds=1))
    prior = load_prior("film-reviews", max_new_tokens=4, temperature=0.7, dtype="float32", device="cpu")
    reward = RewardPosterior.load(folder.path / "reward", PriorFeatures(prior))
    assert isinstance(reward.head, MLPHead)
    assert reward(["The film was great"]).shape == (2, 1)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"--preferences: .*No such file"):
        main(replace(SMALL, out=tmp_path, preferences=tmp_path / "none.jsonl"))
    write_preferences(tmp_path / "ties.jsonl", [Preference("a", f" {i}", " b", tie=True) for i in range(5)])
    with pytest.raises(SystemExit, match="held-out preferences are ties"):
        main(replace(SMALL, out=tmp_path, preferences=tmp_path / "ties.jsonl"))
    with pytest.raises(SystemExit, match="nothing to train"):
        main(replace(SMALL, out=tmp_path, guide="fixed"))


@pytest.fixture(scope="module")
def every(prior):
    return Bank.of(prior, "the film was", gold)


def test_a_sweep_is_the_posterior_that_enumeration_has(prior, every):
    """Identity: KL(p* || p0) and E_p*[gold] of the model whose evidence is the aggregated reward."""
    rewards = torch.stack([every.gold, -0.5 * every.gold, 0.1 * torch.tensor([float(len(text)) for text in every.texts])])
    for aggregate in AGGREGATIONS.values():
        found = sweep(every, rewards, aggregate, torch.tensor([0.3]))
        reward_of = dict(zip(every.texts, aggregate(rewards, 0.3).tolist(), strict=True))
        evidence = TextEvidence(lambda texts, table=reward_of: [table[text] for text in texts], prior)
        truth = Enumeration(AlignmentModel(prior, evidence, beta=0.3), prior.encode(["the film was"]))
        posterior = truth.log_posterior[:, 0]
        assert found.kl.item() == pytest.approx((posterior.exp() * (posterior - truth.log_prior[:, 0])).sum().item(), abs=1e-6)
        assert found.gold.item() == pytest.approx((posterior.exp() @ every.gold).item(), abs=1e-6)


def test_a_bank_of_draws_comes_to_the_same_and_stops_where_it_cannot():
    """Consistent: 4,000 draws are near the exact curve, as long as it does not hang on responses that none of them is."""
    prior = grammar_prior()
    every, draws = Bank.of(prior, "the film was", gold), Bank.of(prior, "the film was", gold, 4000)
    assert (every.weighed.exact, draws.weighed.exact) == (True, False)
    betas = torch.logspace(1, -3, 30)
    exact, found = (sweep(bank, bank.gold[None], AGGREGATIONS["mean"], betas) for bank in (every, draws))
    for beta, kl in zip(found.beta, found.kl, strict=True):
        if (at := exact.kl[exact.beta == beta].item()) < 0.7:
            assert kl.item() == pytest.approx(at, abs=0.05)
    assert len(exact.beta) == 30
    tilted = sweep(draws, torch.arange(4000.0).double()[None], AGGREGATIONS["mean"], torch.logspace(4, 0, 30))
    assert 0 < len(tilted.beta) < 30
    assert bool((tilted.effective_sample_size >= 100).all())
    assert tilted.gold_at(8.0) != tilted.gold_at(8.0)  # NaN
    assert exact.gold_at(100.0) == exact.gold[-1]


def test_preferences_of_a_bank_follow_its_gold_reward(every):
    """P(chosen has more gold) as Bradley-Terry says, within four standard errors."""
    sharp = replace(every, gold=4 * every.gold)
    preferences = sharp.preferences(3000)
    gold_of = dict(zip(every.texts, sharp.gold.tolist(), strict=True))
    better = torch.tensor([[gold_of[text] for text in preference.texts] for preference in preferences])
    difference = better[:, 0] - better[:, 1]
    assert all(preference.chosen != preference.rejected for preference in preferences)
    expected = torch.sigmoid(difference.abs())[difference != 0]
    right = (difference > 0)[difference != 0].double()
    error = (expected * (1 - expected)).sum().sqrt() / len(expected)
    assert abs(right.mean() - expected.mean()) < 4 * error


def test_what_was_judged_before_is_left_out(every):
    train = every.preferences(200)
    known = {frozenset(preference.texts) for preference in train}
    assert any(frozenset(preference.texts) in known for preference in every.preferences(200))
    assert not any(frozenset(preference.texts) in known for preference in every.preferences(200, without=train))


def test_correlation_is_one_with_itself_and_blind_to_a_constant(every):
    assert every.correlation(3 * every.gold + 1) == pytest.approx(1)
    assert every.correlation(-every.gold) == pytest.approx(-1)


def runs(**changed):
    """Two seeds of a world where all of the claim holds, but for what is changed."""
    measured = {"mean fall": 1.0, "mean gain": 1.0, "mean peak kl": 1.0}
    measured |= {"mean gold 2": 1.0, "lower-bound gold 2": 1.5, "minimum gold 2": 1.6, "marginal-likelihood gold 2": 0.5}
    few, many = measured | changed.get("few", {}), measured | {"mean peak kl": 2.0} | changed.get("many", {})
    return [
        Run("next word", count, seed, {name: value + 0.01 * seed for name, value in row.items()})
        for seed in range(2)
        for count, row in ((20, few), (60, many))
    ]


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({"few": {"mean fall": 0.05}}, {0}),
        ({"many": {"mean peak kl": 1.0}}, {1}),
        ({"few": {"lower-bound gold 2": 0.4}}, {2}),
        ({"many": {"minimum gold 2": 0.4}}, {3}),
        ({"few": {"marginal-likelihood gold 2": 1.6}}, {4}),
    ],
)
def test_each_finding_is_decided_by_its_own_number(changed, failed):
    found = findings(runs(**changed), SMALL)
    assert {index for index, finding in enumerate(found) if not finding.held} == failed


def test_what_varies_too_much_is_not_found():
    noisy = runs()
    noisy[0].measured["mean fall"] = 0.15  # of the other seed 1.01: the mean is positive, by one standard error
    assert not findings(noisy, SMALL)[0].held

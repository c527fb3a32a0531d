"""From preferences to a guide, small: what it finds, what it writes, and what it refuses."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

import experiments.rlhf.stages
from experiments.rlhf.__main__ import RLHF, load, main, read, to_go_on
from experiments.rlhf.reward_bank import Bank, Curve, sweep
from experiments.rlhf.simulated import (
    FARTHEST,
    KLS,
    Run,
    certainly_positive,
    findings,
    mean_curves,
    one_data_set,
    world_tables,
)
from experiments.rlhf.stages import held_out, learn, tune
from experiments.shared.run_folder import RunFolder
from experiments.steer.posterior_options import read_reward
from inference import Enumeration
from inference.reward_posterior.calibration import calibrate, predict
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.preferences import (
    AGGREGATIONS,
    Comparisons,
    EncoderFeatures,
    MLPHead,
    Preference,
    PriorFeatures,
    RewardPosterior,
    UncertainReward,
    read_preferences,
    write_preferences,
)
from model.prior.named_priors import load_prior

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


@pytest.mark.slow
def test_simulated_preferences_to_a_guide(tmp_path, capsys):
    folder, _ = main(replace(SMALL, out=tmp_path))
    printed = capsys.readouterr().out
    for expected in (
        "Claim: gold",
        "The reward, next word",
        "all KL exact",
        "p = ",
        "A guide, twisted",
        "The claim",
    ):
        assert expected in printed
    runs = [json.loads(line) for line in (folder.path / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 2 * 2 * 2
    assert all(run["measured"][f"{name} fall"] >= 0 for run in runs for name in AGGREGATIONS)
    assert len(read_preferences(folder.path / "preferences.jsonl")) == 60
    assert folder.report.read_text().count("<svg") == 4
    assert (folder.guide / "guide.safetensors").is_file()
    assert json.loads((folder.guide / "guide.json").read_text())["guide"] == "twisted"
    assert (folder.path / "report.txt").read_text().strip() in printed


@pytest.mark.slow
def test_a_file_of_preferences_to_a_guide(tmp_path, capsys):
    first, _ = main(replace(SMALL, out=tmp_path, num_preferences=(40,), seeds=1, simulations=0))
    capsys.readouterr()
    folder, _ = main(
        replace(SMALL, out=tmp_path, preferences=first.path / "preferences.jsonl", inference="map")
    )
    printed = capsys.readouterr().out
    assert "on 8 held out: accuracy" in printed
    assert "gold" not in printed
    prior = load_prior(
        "film-reviews", max_new_tokens=4, temperature=0.7, dtype="float32", device="cpu"
    )
    reward = RewardPosterior.load(folder.path / "reward", PriorFeatures(prior))
    assert reward(["The film was great"]).shape == (1, 1)


@pytest.mark.slow
def test_head_with_a_hidden_layer(tmp_path, capsys):
    args = replace(
        SMALL,
        head="mlp",
        inference="ensemble",
        reward_samples=2,
        num_preferences=(20,),
        simulations=0,
    )
    folder, _ = main(replace(args, out=tmp_path, seeds=1))
    prior = load_prior(
        "film-reviews", max_new_tokens=4, temperature=0.7, dtype="float32", device="cpu"
    )
    reward = RewardPosterior.load(folder.path / "reward", PriorFeatures(prior))
    assert isinstance(reward.head, MLPHead)
    assert reward(["The film was great"]).shape == (2, 1)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"--preferences: .*No such file"):
        main(replace(SMALL, out=tmp_path, preferences=tmp_path / "none.jsonl"))
    write_preferences(
        tmp_path / "ties.jsonl", [Preference("a", f" {i}", " b", tie=True) for i in range(5)]
    )
    with pytest.raises(SystemExit, match="held-out preferences are ties"):
        main(replace(SMALL, out=tmp_path, preferences=tmp_path / "ties.jsonl"))
    write_preferences(
        tmp_path / "two.jsonl", [Preference("a", " b", " c", tie=True), Preference("a", " b", " d")]
    )
    for seed, part in ((0, "held-out preferences"), (1, "preferences to learn from")):
        with pytest.raises(SystemExit, match=f"--preferences: all 1 {part} are ties"):
            main(replace(SMALL, out=tmp_path, preferences=tmp_path / "two.jsonl", seed=seed))
    assert not [*tmp_path.glob("rlhf*")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior": "none/of/these"}, "--prior none/of/these is no folder"),
        ({"encoder": "none/of/these"}, "--encoder none/of/these is no folder"),
        ({"components": 0}, "--components is 0, expected a whole number of at least 1"),
        ({"head": "deep"}, "--head is 'deep', expected one of: linear, mlp"),
        ({"prior_scale": math.inf}, "--prior-scale is inf, expected a positive finite number"),
        ({"inference": "guess"}, "--inference is 'guess', expected one of: map"),
        ({"reward_samples": 0}, "--reward-samples is 0, expected a whole number of at least 1"),
        ({"aggregation": "median"}, "--aggregation is 'median', expected one of"),
        ({"beta": 0.0}, "--beta is 0.0, expected a positive finite number"),
        ({"beta": math.nan}, "--beta is nan"),
        ({"prompt": "the " * 500}, "--prompt: prompt 0 has"),
        ({"word_prompt": "the " * 500}, "--word-prompt: prompt 0 has"),
        ({"max_new_tokens": 0}, "--max-new-tokens is 0, expected a whole number of at least 1"),
        ({"temperature": -1.0}, "--temperature is -1"),
        ({"num_preferences": ()}, "--num-preferences is empty"),
        (
            {"num_preferences": (20, 0)},
            "--num-preferences is 0, expected a whole number of at least 1",
        ),
        (
            {"num_preferences": (20, 20)},
            "--num-preferences is 20 20, expected one or more, all different",
        ),
        ({"gold_scale": 0.0}, "--gold-scale is 0"),
        ({"tie_strength": 1.0}, "--tie-strength is for --preferences"),
        ({"tie_strength": 0.0}, "--tie-strength is 0"),
        ({"flip": 0.5}, r"--flip is 0\.5"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"draws": 10}, "--min-effective is 10, expected less than --draws, 10"),
        ({"min_effective": math.nan}, "--min-effective is nan"),
        ({"betas": 1}, "--betas is 1, expected a whole number of at least 2"),
        ({"simulations": -1}, "--simulations is -1"),
        ({"held_out": 1.0}, "--held-out is 1"),
        ({"max_prompts": 0}, "--max-prompts is 0"),
        ({"guide": "fixed"}, "--guide fixed has nothing to train"),
        ({"guide": "tabular"}, "--guide tabular: 3072 token ids and 4 positions"),
        ({"steps": 0}, "--steps is 0"),
        ({"particles": 1}, "--particles is 1, expected a whole number of at least 2"),
        ({"learning_rate": 0.0}, "--learning-rate is 0"),
        ({"samples": 0}, "--samples is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"device": "none"}, "--device none"),
        ({"threads": 0}, "--threads is 0"),
    ],
)
def test_what_could_only_fail_later_is_refused_before_there_is_a_run_folder(
    tmp_path, changed, message
):
    with pytest.raises(SystemExit, match=f"^{message}"):
        main(replace(SMALL, out=tmp_path / "runs", **changed))
    assert not (tmp_path / "runs").exists()


def test_a_file_where_runs_should_go_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(SystemExit, match=r"--out .*runs is a file"):
        main(replace(SMALL, out=tmp_path / "runs"))


def told(prior, count, ties=0):
    """Preferences for what is longer, after three prompts, the last of them ties."""
    texts = ["good", "bad", "very good", "not dull", "very very bad", "dull"]
    pairs = [
        (f"the {noun} was", f" {a}", f" {b}")
        for noun in ("film", "plot")
        for a in texts
        for b in texts
        if len(a) > len(b)
    ]
    return [
        Preference(*pair, tie=index >= count - ties) for index, pair in enumerate(pairs[:count])
    ]


def test_particles_and_steps_are_those_of_the_fit(prior, tmp_path, monkeypatch):
    asked = {}

    def recorded(*args, **kwargs):
        asked.update(kwargs)
        return fit(*args, **kwargs)

    fit = experiments.rlhf.stages.fit
    monkeypatch.setattr(experiments.rlhf.stages, "fit", recorded)
    _, posterior = learn(SMALL, PriorFeatures(prior), told(prior, 10), 0.0, 0)
    tune(
        replace(SMALL, particles=5, steps=3),
        prior,
        posterior,
        ["the film was"],
        RunFolder(tmp_path),
    )
    assert asked["objective"].num_particles == 5
    assert asked["num_steps"] == len(RunFolder(tmp_path).read_metrics()) == 3


def test_slips_count_in_what_is_held_out(prior):
    """An annotator who slips turns labels of the test around as well."""
    preferences = told(prior, 24)
    model, posterior = learn(
        replace(SMALL, flip=0.3), PriorFeatures(prior), preferences[:12], 0.3, 0
    )
    comparisons = Comparisons.of(preferences[12:], posterior.features)
    with_slips, without = (
        calibrate(
            predict(model, comparisons, posterior.samples, slips=slips), comparisons.outcome
        ).log_loss.value
        for slips in (True, False)
    )
    assert held_out(model, posterior, preferences[12:]).log_loss.value == with_slips != without


def test_of_a_file_so_many_prompts_are_tuned_on(prior, tmp_path):
    pairs = [Preference(f"the film was{' very' * i}", " good", " bad") for i in range(8)]
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    args = replace(SMALL, preferences=tmp_path / "pairs.jsonl", max_prompts=3)
    train, test, texts = read(args, prior)
    assert (len(train), len(test), len(texts)) == (6, 2, 3)
    assert len(read(replace(args, max_prompts=16), prior)[2]) == 6


def test_the_strength_of_ties_can_be_given_and_is_0_without_ties(prior):
    features = PriorFeatures(prior)
    assert learn(SMALL, features, told(prior, 12), 0.0, 0)[0].tie_strength == 0
    assert (
        learn(replace(SMALL, tie_strength=0.3), features, told(prior, 12, ties=4), 0.0, 0)[
            0
        ].tie_strength
        == 0.3
    )
    assert (
        learn(SMALL, features, told(prior, 12, ties=4), 0.0, 0)[0].tie_strength > 1
    )  # 2 * share / (1 - share), at least


def test_a_reward_by_an_encoder_is_a_reward_for_steer(prior, tmp_path):
    sizes = {
        "vocab_size": 10,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "encoder")
    prior.tokenizer.save_pretrained(tmp_path / "encoder")
    _, features = load(replace(SMALL, encoder=str(tmp_path / "encoder"), device="cpu"))
    assert isinstance(features, EncoderFeatures)
    _, posterior = learn(SMALL, features, told(prior, 12), 0.0, 0)
    posterior.save(tmp_path / "reward")

    prompts = prior.encode(["the film was"])
    response = prior(prompts).sample((5,))
    texts = [row[0] for row in prior.decode(response, prompts)]
    found = read_reward(f"preferences:{tmp_path / 'reward'}").reward(prior)(prompts, response)
    assert found[:, 0].tolist() == pytest.approx(
        UncertainReward(posterior, "lower-bound")(texts), abs=1e-5
    )
    (tmp_path / "encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(
        SystemExit, match=r"of the encoder .*encoder, which cannot be loaded: put it back"
    ):
        read_reward(f"preferences:{tmp_path / 'reward'}").reward(prior)


@pytest.fixture(scope="module")
def every(prior):
    return Bank.of(prior, "the film was", gold)


def test_a_sweep_is_the_posterior_that_enumeration_has(prior, every):
    """Identity: KL(p* || p0) and E_p*[gold] of the model whose evidence is the aggregated reward."""
    rewards = torch.stack(
        [
            every.gold,
            -0.5 * every.gold,
            0.1 * torch.tensor([float(len(text)) for text in every.texts]),
        ]
    )
    for aggregate in AGGREGATIONS.values():
        found = sweep(every, rewards, aggregate, torch.tensor([0.3]))
        reward_of = dict(zip(every.texts, (0.3 * aggregate(rewards, 0.3)).tolist(), strict=True))
        reward = TextReward(lambda texts, table=reward_of: [table[text] for text in texts], prior)
        truth = Enumeration(AlignmentModel(prior, reward, beta=0.3), prior.encode(["the film was"]))
        posterior = truth.log_posterior[:, 0]
        assert found.kl.item() == pytest.approx(
            (posterior.exp() * (posterior - truth.log_prior[:, 0])).sum().item(), abs=1e-6
        )
        assert found.gold.item() == pytest.approx((posterior.exp() @ every.gold).item(), abs=1e-6)


def test_a_bank_of_draws_comes_to_the_same_and_stops_where_it_cannot():
    """Consistent: 4,000 draws are near the exact curve, as long as it does not hang on responses that none of them is."""
    prior = grammar_prior()
    every, draws = Bank.of(prior, "the film was", gold), Bank.of(prior, "the film was", gold, 4000)
    assert (every.weighed.exact, draws.weighed.exact) == (True, False)
    betas = torch.logspace(1, -3, 30)
    exact, found = (
        sweep(bank, bank.gold[None], AGGREGATIONS["mean"], betas) for bank in (every, draws)
    )
    near = exact.kl[: len(found.kl)] < 0.7
    assert near.sum() > 5
    assert torch.allclose(found.kl[near], exact.kl[: len(found.kl)][near], rtol=0, atol=0.05)
    assert len(exact.beta) == 30
    tilted = sweep(
        draws, torch.arange(4000.0).double()[None], AGGREGATIONS["mean"], torch.logspace(4, 0, 30)
    )
    assert 0 < len(tilted.beta) < 30
    assert bool((tilted.effective_sample_size >= 100).all())
    assert tilted.gold_at(8.0) != tilted.gold_at(8.0)  # NaN
    assert exact.gold_at(100.0) == exact.gold[-1]


def test_a_sweep_of_which_nothing_can_be_trusted_is_refused(prior):
    draws = Bank.of(prior, "the film was", gold, 64)
    with pytest.raises(
        ValueError, match=r"none of 2 betas .* min_effective = 100 draws, the most is 6\d\.\d of 64"
    ):
        sweep(draws, draws.gold[None], AGGREGATIONS["mean"], torch.tensor([1.0, 10.0]))
    with pytest.raises(ValueError, match="none of 0 betas"):
        sweep(draws, draws.gold[None], AGGREGATIONS["mean"], torch.tensor([]), min_effective=0)


def test_pairs_that_do_not_exist_are_not_looked_for_forever(every):
    with pytest.raises(
        ValueError, match=r"only 0 are of different texts .* expected 2: raise the temperature"
    ):
        replace(every, texts=["good"] * len(every.texts)).preferences(2)
    texts = ["", *every.texts[1:]]
    assert not any(
        "" in preference.texts
        for preference in replace(every, texts=texts, prompt="").preferences(300)
    )


def test_preferences_of_a_bank_follow_its_gold_reward(every):
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


def test_what_was_judged_before_is_left_out(every):
    train = every.preferences(200)
    known = {frozenset(preference.texts) for preference in train}
    assert any(frozenset(preference.texts) in known for preference in every.preferences(200))
    assert not any(
        frozenset(preference.texts) in known for preference in every.preferences(200, without=train)
    )


def test_correlation_is_one_with_itself_and_blind_to_a_constant(every):
    assert every.correlation(3 * every.gold + 1) == pytest.approx(1)
    assert every.correlation(-every.gold) == pytest.approx(-1)


def runs(**changed):
    """Two seeds of a world where all of the claim holds, but for what is changed."""
    measured = {"mean fall": 1.0, "mean gain": 1.0, "mean peak kl": 1.0}
    measured |= {
        "mean gold 2": 1.0,
        "lower-bound gold 2": 1.5,
        "minimum gold 2": 1.6,
        "marginal-likelihood gold 2": 0.5,
    }
    few, many = (
        measured | changed.get("few", {}),
        measured | {"mean peak kl": 2.0} | changed.get("many", {}),
    )
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


def test_a_tenth_of_the_gain_is_what_must_be_lost():
    """The share is one of the own gain, with the fewest preferences alone."""
    for fall, held in ((0.95, False), (1.05, True)):
        few = {"mean fall": fall, "mean gain": 10.0}
        many = {"mean fall": 1.0, "mean gain": 0.0}
        assert findings(runs(few=few, many=many), SMALL)[0].held == held


def test_aggregations_are_compared_over_data_sets_of_every_size():
    """Their differences are averaged within a seed first: one size may say the opposite."""
    for loss, held in ((0.4, True), (0.6, False)):  # the other size has a gain of 0.5
        low, least, most = 1.0 - loss, 0.9 - loss, 1.0 + loss
        assert findings(runs(few={"lower-bound gold 2": low}), SMALL)[2].held == held
        assert findings(runs(many={"minimum gold 2": least}), SMALL)[3].held == held
        assert findings(runs(many={"marginal-likelihood gold 2": most}), SMALL)[4].held == held


def test_certain_is_what_is_two_standard_errors_above_zero():
    for mean, held in ((1.9, False), (2.1, True), (-2.1, False)):
        values = [mean + 3**0.5 * shift for shift in (-1.0, 0.0, 1.0)]  # a standard error of 1
        assert certainly_positive(values) == held
    assert not certainly_positive([5.0])


def test_what_is_measured_of_a_data_set_is_read_off_its_curves(every, prior):
    """The peak of the gold reward, what it gains there, what is lost of that by the end, and what the proxy gains."""
    args = replace(SMALL, betas=30)
    features = PriorFeatures(prior)
    run, curves, found, posterior, train = one_data_set(args, "word", every, every, features, 20, 1)
    assert (run.world, run.num_preferences, run.seed, len(train)) == ("word", 20, 1, 20)
    assert curves.keys() == AGGREGATIONS.keys()
    for name, curve in curves.items():
        own = [key for key in run.measured if key.startswith(f"{name} ")]
        of_it = {key.removeprefix(f"{name} "): run.measured[key] for key in own}
        gold, kl, proxy = curve.gold.tolist(), curve.kl.tolist(), curve.proxy.tolist()
        peak = max(range(len(gold)), key=gold.__getitem__)
        assert of_it["peak kl"] == kl[peak]
        assert of_it["gain"] == pytest.approx(gold[peak] - (every.prob @ every.gold).item())
        assert of_it["fall"] == pytest.approx(gold[peak] - gold[-1])
        assert of_it["proxy rise"] == pytest.approx(proxy[-1] - proxy[peak])
        for at in KLS:
            assert of_it[f"gold {at:g}"] == pytest.approx(float(np.interp(at, kl, gold)))
    assert run.measured["accuracy"] == found.accuracy.value
    correlation = every.correlation(posterior(every.texts).mean(0))
    assert run.measured["correlation"] == pytest.approx(correlation)


def test_curves_are_averaged_where_all_of_them_are_known():
    """Range of the figure: for draws from the furthest start to the nearest end, for all responses the whole."""

    def curve(kl, gold, size):
        columns = [1.0, 1.0], kl, gold, gold, [size, size]
        return {"mean": Curve(*(torch.tensor(column, dtype=torch.float64) for column in columns))}

    two = [curve([0.0, 2.0], [0.0, 2.0], 50.0), curve([0.5, 1.5], [1.5, 2.5], 50.0)]
    grid, gold, error = mean_curves(two)["mean"]
    assert (grid[0], grid[-1]) == pytest.approx((0.5, 1.5))
    assert gold == pytest.approx([at + 0.5 for at in grid])  # one is the KL, the other 1 more
    assert error == pytest.approx([0.5] * len(grid))
    whole = mean_curves([curve([0.0, 2.0], [0.0, 2.0], math.inf)])["mean"]
    assert whole[0][-1] == FARTHEST
    assert (whole[1][-1], whole[2][-1]) == (2.0, 0.0)


def test_tables_of_a_world_are_means_over_its_data_sets(every):
    """Number i is i + count, plus and minus 1 in the two data sets of that size."""
    ends = ("peak kl", "gain", "fall", "proxy rise")
    keys = {
        name: [*(f"{name} gold {kl:g}" for kl in KLS), *(f"{name} {end}" for end in ends)]
        for name in AGGREGATIONS
    }
    names = [
        "correlation",
        "accuracy",
        "ece",
        "ece by chance",
        *(key for own in keys.values() for key in own),
    ]
    made = []
    for count in (20, 60):
        for seed in range(2):
            measured = {name: index + count + (-1) ** seed for index, name in enumerate(names)}
            made.append(Run("next word", count, seed, measured))
    reward, gold = world_tables("next word", made, SMALL, every)
    rows = {line.split("  ")[0]: line for line in [*reward.splitlines(), *gold.splitlines()]}
    for count in (20, 60):
        expected = {f"{count} preferences": names[:4]} | {
            f"{count}, {name}": own for name, own in keys.items()
        }
        for row, own in expected.items():
            cells = re.findall(r"\d+ ± 1", rows[row])
            assert cells == [f"{names.index(key) + count} ± 1" for key in own]
    assert f"prior {every.prior_gold:.3f}" in gold


def test_what_varies_too_much_is_not_found():
    noisy = runs()
    noisy[0].measured["mean fall"] = (
        0.15  # of the other seed 1.01: the mean is positive, by one standard error
    )
    assert not findings(noisy, SMALL)[0].held


def test_an_interrupted_run_says_what_can_be_made_of_it(tmp_path):
    folder = RunFolder(tmp_path)
    assert not to_go_on(folder)
    (tmp_path / "reward").mkdir()
    assert to_go_on(folder).endswith(f"steer --reward preferences:{tmp_path / 'reward'}")

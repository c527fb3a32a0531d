"""Best of n on the plane: the exact points are the law's, the frontier is one, what is measured agrees."""

import math

import pytest
import torch

from experiments import best_of_n
from experiments.best_of_n import (
    Best,
    BestOfN,
    Place,
    best_findings,
    exact_best,
    log_ratio,
    main,
    measured_best,
    reward_at,
)
from experiments.guide_zoo.family_optimum import family_optimum
from experiments.shared.run_folder import RunFolder
from guides import Fixed, Tabular
from inference import Enumeration, Estimate, PriorSample
from inference.order_statistics import best_of_n_kl_bound
from model import AlignmentModel, LanguageModel
from model.registry import REWARDS


@pytest.fixture
def law():
    """Four responses, two of them with the same reward."""
    prob = torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)
    reward = torch.tensor([[0.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    return PriorSample(torch.arange(4).view(4, 1, 1), prob.log(), reward, exact=True)


def test_the_best_of_two_by_hand(law):
    """Of two draws: the best is a 0 if both are, and a 2 unless none is."""
    best = exact_best(law, 2)
    zero, two = 0.4**2, 1 - 0.9**2
    levels = torch.tensor([zero, 1 - zero - two, two], dtype=torch.float64)
    prior = torch.tensor([0.4, 0.5, 0.1], dtype=torch.float64)
    assert best.reward == pytest.approx((1 - zero - two) + 2 * two, abs=1e-12)
    assert best.kl == pytest.approx((levels * (levels / prior).log()).sum().item(), abs=1e-12)
    ratio = torch.stack([levels[0] / 0.4, levels[1] / 0.5, levels[1] / 0.5, levels[2] / 0.1]).log()[
        :, None
    ]
    assert torch.allclose(log_ratio(law.log_prior_weight, law.log_likelihood, 2), ratio, atol=1e-12)


def test_the_frontier_is_the_posterior_as_far_away(law):
    for kl, mean in law.frontier([0.3, 1.0, 4.0]):
        assert reward_at(law, kl) == pytest.approx(mean, abs=1e-9)


def test_no_law_is_above_the_frontier(law):
    for law_of_four in torch.rand(200, 4, 1).double().log_softmax(1) * 3:
        log_prob = law_of_four.log_softmax(0)
        kl = (log_prob.exp() * (log_prob - law.log_prior_weight)).sum().item()
        assert (log_prob.exp() * law.log_likelihood).sum().item() <= reward_at(law, kl) + 1e-9


def test_beyond_the_last_posterior_the_frontier_is_the_largest_reward(law):
    assert reward_at(law, 5.0) == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize("n", [2, 8])
def test_groups_of_draws_agree_with_order_statistics(law, n):
    """Over many sets of draws they are off by about their standard errors, and by nothing in the mean."""
    truth = exact_best(law, n)
    distances = []
    for _ in range(60):
        draws = law.log_likelihood[
            torch.multinomial(law.log_prior_weight.exp()[:, 0], 1024, replacement=True), 0
        ]
        found = measured_best(truth, draws, n)
        pairs = (
            (found.place.kl, truth.kl),
            (found.place.reward, truth.reward),
            (found.win_rate, truth.win_rate.value),
        )
        distances.append(
            [(estimate.value - exact) / estimate.standard_error for estimate, exact in pairs]
        )
    spread = torch.tensor(distances)
    assert ((spread.std(0) > 0.5) & (spread.std(0) < 1.5)).all()
    assert (spread.mean(0).abs() < 5 / 60**0.5).all()


def one(kl=0.5, reward=1.85, win_rate=(0.6, 0.01)):
    """A best of 4 that meets all of the claim, but for what is changed.

    The prior has reward 1, and the posterior as far from it 2.
    """
    where = Place(Estimate(kl, 0.1), Estimate(reward, 0.1))
    return Best(where, kl, reward, frontier=2.0, start=1.0, win_rate=Estimate(*win_rate))


def test_a_share_is_of_what_the_posterior_as_far_gains_over_the_prior():
    assert one(reward=1.25).share == pytest.approx(0.25)
    assert math.isnan(one(kl=0.0).share)


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({"kl": best_of_n_kl_bound(4) - 1e-6}, set()),
        ({"kl": best_of_n_kl_bound(4) + 1e-6}, {0}),
        ({"win_rate": (0.829, 0.01)}, set()),  # the bound is 0.8
        ({"win_rate": (0.831, 0.01)}, {1}),
        ({"win_rate": (0.8001, math.nan)}, {1}),
        ({"reward": 2.0 + 1e-6}, {2}),
        ({"reward": 1.79}, {3}),
    ],
    ids=str,
)
def test_each_finding_of_the_best_of_n_is_decided_by_its_own_number(changed, failed):
    """The worst of several n decides, in any order; a prior draw, the best of 1, has no share."""
    prior, good, odd = one(kl=0.0, reward=1.0), one(kl=0.1, reward=1.9), one(**changed)
    for best in (
        {1: prior._replace(win_rate=Estimate(0.5, 0.0)), 4: odd, 16: good},
        {2: good, 4: odd},
    ):
        found = best_findings(best, "here")
        assert {index for index, finding in enumerate(found) if not finding.held} == failed
    assert f"gains {min(odd.share, 0.9):.0%} of" in found[3].statement


@pytest.fixture
def grammar(prior, monkeypatch):
    """The grammar in place of both priors, with 91 responses."""
    prior = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=2)
    monkeypatch.setattr(best_of_n, "grammar_prior", lambda **_: prior)
    monkeypatch.setattr(best_of_n, "load_prior", lambda *_, **__: prior)
    return prior


def test_what_distillation_leaves_is_a_share_of_what_the_prior_has(grammar, tmp_path, monkeypatch):
    """KL(q || best of n) over KL(p0 || best of n), for guides that have learned some of it and none."""
    monkeypatch.setattr(best_of_n, "svi", lambda *_: Fixed(grammar))
    args = BestOfN(sizes=(1, 4), distilled=(4,), betas=(0.6,), seeds=2, out=tmp_path)
    prompts = grammar.encode(["the film was"])
    truth = Enumeration(AlignmentModel(grammar, REWARDS["vader"](grammar), 1.0), prompts)
    best = truth.log_prior + log_ratio(truth.log_prior, truth.log_likelihood, 4)
    posterior = AlignmentModel(grammar, REWARDS["vader"](grammar), 0.52)
    for guide, learned in ((Fixed(grammar), False), (exact_table(posterior, prompts), True)):
        monkeypatch.setattr(best_of_n, "distil", lambda *_, guide=guide: guide)
        text, findings = best_of_n.on_grammar(args, RunFolder(tmp_path))
        left, start = kl_to(best, truth.log_guide(guide)), kl_to(best, truth.log_prior)
        said = f"distillation leaves {left / start:.3g} ± 0 of KL(p0 || best of 4)"
        assert findings[-1].statement.startswith(said)
        assert findings[-1].held == learned == (left < 0.2 * start)
        assert f"{left:.3g} ± 0" in text.splitlines()[-1]
        assert all(finding.held for finding in findings[:-1])


def exact_table(model, prompts):
    """The posterior of a model, as a guide. The best of n is near it."""
    truth = Enumeration(model, prompts)
    return family_optimum(
        truth, lambda: Tabular(model.prior, prompts), "reverse", max_iter=40
    ).guide


def kl_to(log_target, log_law):
    return (log_law.exp() * (log_law - log_target)).sum().item()


def test_a_guide_above_the_posteriors_is_found(grammar, tmp_path, monkeypatch):
    monkeypatch.setattr(best_of_n, "svi", lambda *_: Fixed(grammar))
    monkeypatch.setattr(best_of_n, "distil", lambda *_: Fixed(grammar))
    place = {"kl": 0.5, "reward": 0.7, "frontier": 0.6, "gap": 0.1}
    monkeypatch.setattr(best_of_n, "exact_guide", lambda *_: place)
    args = BestOfN(sizes=(1, 2), distilled=(2,), betas=(0.6,), seeds=1, out=tmp_path)
    _, findings = best_of_n.on_grammar(args, RunFolder(tmp_path))
    assert [finding.statement[:8] for finding in findings if not finding.held][:1] == ["no guide"]


@pytest.mark.parametrize(
    ("there", "failed"),
    [
        ({}, []),
        ({"kl": (2.9, 0.1)}, []),
        ({"kl": (-3.1, 0.1)}, [4]),
        ({"reward": (2.9, 0.1)}, []),
        ({"reward": (-3.1, 0.1)}, [5]),
        ({"kl": (3.5, 1.0)}, [4, 6]),
    ],
    ids=str,
)
def test_each_finding_of_measurements_is_decided_by_its_own_number(
    grammar, tmp_path, monkeypatch, there, failed
):
    """Three standard errors, as many as `there` says to either side, of what order statistics have."""

    def off(name, value, n):
        steps, error = there.get(name, (0.0, 0.1)) if n == 2 else (0.0, 0.1)
        return Estimate(value + steps * error, error)

    def measured(exact_one, rewards, n):
        place = Place(off("kl", exact_one.kl, n), off("reward", exact_one.reward, n))
        return exact_one._replace(place=place)

    monkeypatch.setattr(best_of_n, "measured_best", measured)
    args = BestOfN(sizes=(1, 2, 4), text_steps=0, draws=256, out=tmp_path)
    _, findings = best_of_n.on_text(args, RunFolder(tmp_path))
    not_held = [index for index, finding in enumerate(findings) if not finding.held]
    assert [index for index in not_held if index > 3] == failed
    for index, name in ((4, "kl"), (5, "reward")):
        steps, _ = there.get(name, (0.0, 0.1))
        assert f"to {abs(steps):.1f} standard errors" in findings[index].statement


@pytest.mark.slow
def test_script(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(best_of_n, "grammar_prior", lambda **_: prior)
    args = BestOfN(
        sizes=(1, 2, 8),
        distilled=(4,),
        betas=(0.6,),
        steps=3,
        seeds=2,
        text_steps=1,
        draws=320,
        out=tmp_path,
    )
    findings = main(args)
    held = {finding.statement: finding.held for finding in findings}
    assert [said for said, ok in held.items() if not ok] == [
        said for said in held if said.startswith("distillation leaves")
    ]
    assert len(held) == 15
    printed = capsys.readouterr().out
    assert f"{best_of_n_kl_bound(8):.4f}" in printed
    assert "did NOT hold" in printed, "3 steps do not distil"
    assert {path.name for path in tmp_path.rglob("*.svg")} == {"grammar.svg", "text.svg"}

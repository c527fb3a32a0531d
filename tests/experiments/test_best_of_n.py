"""Best of n on the plane: the exact points are the law's, the frontier is one, what is measured agrees."""

import pytest
import torch

from experiments import best_of_n
from experiments.best_of_n import BestOfN, exact_best, log_ratio, main, measured_best, reward_at
from inference import PriorBank
from inference.order_statistics import best_of_n_kl_bound


@pytest.fixture
def law():
    """Four responses, two of them with the same reward."""
    prob = torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)
    reward = torch.tensor([[0.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    return PriorBank(torch.arange(4).view(4, 1, 1), prob.log(), reward, exact=True)


def test_the_best_of_two_by_hand(law):
    """Of two draws: the best is a 0 if both are, and a 2 unless none is."""
    best = exact_best(law, 2)
    zero, two = 0.4**2, 1 - 0.9**2
    levels = torch.tensor([zero, 1 - zero - two, two], dtype=torch.float64)
    prior = torch.tensor([0.4, 0.5, 0.1], dtype=torch.float64)
    assert best.reward == pytest.approx((1 - zero - two) + 2 * two, abs=1e-12)
    assert best.kl == pytest.approx((levels * (levels / prior).log()).sum().item(), abs=1e-12)
    ratio = torch.stack([levels[0] / 0.4, levels[1] / 0.5, levels[1] / 0.5, levels[2] / 0.1]).log()[:, None]
    assert torch.allclose(log_ratio(law.log_prior, law.log_evidence, 2), ratio, atol=1e-12)


def test_the_frontier_is_the_posterior_as_far_away(law):
    for kl, mean in law.frontier([0.3, 1.0, 4.0]):
        assert reward_at(law, kl) == pytest.approx(mean, abs=1e-9)


def test_no_law_is_above_the_frontier(law):
    for law_of_four in torch.rand(200, 4, 1).double().log_softmax(1) * 3:
        log_prob = law_of_four.log_softmax(0)
        kl = (log_prob.exp() * (log_prob - law.log_prior)).sum().item()
        assert (log_prob.exp() * law.log_evidence).sum().item() <= reward_at(law, kl) + 1e-9


def test_beyond_the_last_posterior_the_frontier_is_the_largest_reward(law):
    assert reward_at(law, 5.0) == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize("n", [2, 8])
def test_groups_of_draws_agree_with_order_statistics(law, n):
    """Over many sets of draws they are off by about their standard errors, and by nothing in the mean."""
    truth = exact_best(law, n)
    distances = []
    for _ in range(60):
        draws = law.log_evidence[torch.multinomial(law.log_prior.exp()[:, 0], 1024, replacement=True), 0]
        found = measured_best(truth, draws, n)
        pairs = (found.place.kl, truth.kl), (found.place.reward, truth.reward), (found.win_rate, truth.win_rate.value)
        distances.append([(estimate.value - exact) / estimate.standard_error for estimate, exact in pairs])
    spread = torch.tensor(distances)
    assert ((spread.std(0) > 0.5) & (spread.std(0) < 1.5)).all()
    assert (spread.mean(0).abs() < 0.6).all()


@pytest.mark.slow
def test_script(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(best_of_n, "grammar_prior", lambda **_: prior)
    args = BestOfN(sizes=(1, 2, 8), distilled=(4,), betas=(0.6,), steps=3, seeds=2, text_steps=1, draws=320, out=tmp_path)
    findings = main(args)
    held = {finding.statement: finding.held for finding in findings}
    assert [said for said, ok in held.items() if not ok] == [said for said in held if said.startswith("distillation leaves")]
    assert len(held) == 15
    printed = capsys.readouterr().out
    assert f"{best_of_n_kl_bound(8):.4f}" in printed
    assert "did NOT hold" in printed, "3 steps do not distil"
    assert {path.name for path in tmp_path.rglob("*.svg")} == {"grammar.svg", "text.svg"}

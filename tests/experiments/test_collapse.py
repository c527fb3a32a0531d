"""Collapse: reward alone loses the entropy, the penalty keeps the posterior's, and a binary reward moves the odds alone."""

import math

import pytest
import torch

from experiments import collapse
from experiments.collapse import (
    PENALISED,
    PURE,
    Collapse,
    ascend,
    binary_findings,
    classes,
    collapse_findings,
    main,
    measure,
    posterior_findings,
)
from experiments.shared.training import RewardOnly
from experiments.shared.worlds import moved_guide
from inference import Enumeration, entropy, log_guide_at
from inference.programs import parameter_scope
from model import AlignmentModel, LanguageModel, Pattern, TextReward
from model.registry import REWARDS


@pytest.fixture
def truth(prior):
    return Enumeration(
        AlignmentModel(prior, REWARDS["vader"](prior), 0.3), prior.encode(["the film was"])
    )


def test_penalty_keeps_the_entropy_that_pure_reward_loses(prior):
    prior = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=2)  # 91 responses
    truth = Enumeration(
        AlignmentModel(prior, REWARDS["vader"](prior), 0.3), prior.encode(["the film was"])
    )
    pure = ascend(prior, truth, 60, penalised=False)
    penalised = ascend(prior, truth, 60, penalised=True)
    assert pure.entropy[60] < 0.3
    assert pure.log_guide.max().exp() > 0.9
    assert abs(penalised.entropy[60] - entropy(truth.log_posterior).item()) < 0.1


def test_measured_of_the_prior_and_the_posterior(prior, truth):
    before, after = (
        measure(prior, truth, law, Collapse(beta=0.3))
        for law in (truth.log_prior, truth.log_posterior)
    )
    reward = 0.3 * truth.log_likelihood
    assert before["reward"] == pytest.approx(
        (truth.log_prior.exp() * reward).sum().item(), abs=1e-12
    )
    assert before["kl_guide_prior"] == pytest.approx(0, abs=1e-12)
    assert after["kl_guide_posterior"] == pytest.approx(0, abs=1e-12)
    elbo = before["reward"] / 0.3
    assert before["kl_guide_posterior"] == pytest.approx(truth.log_z.item() - elbo, abs=1e-10)
    assert after["entropy"] == pytest.approx(entropy(truth.log_posterior).item(), abs=1e-12)


def test_binary_reward_shifts_the_log_odds_by_one_over_beta_and_freezes_the_ratios(prior):
    model = AlignmentModel(prior, TextReward(Pattern.of_words("not"), prior), beta=0.17)
    truth = Enumeration(model, prior.encode(["the plot was"]))
    found = classes(truth.log_posterior, truth.log_prior, truth.log_likelihood[:, 0] > 0)
    assert found["shift"] == pytest.approx(1 / 0.17, abs=1e-10)
    assert found["moved"] < 1e-10
    assert max(abs(found["kl_success"]), abs(found["kl_failure"])) < 1e-10


def test_what_moves_within_classes_is_seen():
    law = torch.tensor([[0.5], [0.1], [0.2], [0.2]], dtype=torch.float64).log()
    prior = torch.tensor([[0.25], [0.25], [0.25], [0.25]], dtype=torch.float64).log()
    found = classes(law, prior, torch.tensor([True, True, False, False]))
    assert found["shift"] == pytest.approx(math.log(0.6 / 0.4))
    assert found["moved"] == pytest.approx(math.log(5))
    assert found["kl_success"] == pytest.approx(5 / 6 * math.log(5 / 3) + 1 / 6 * math.log(1 / 3))
    assert found["kl_failure"] == pytest.approx(0, abs=1e-12)


def test_findings_fail_where_the_claim_does():
    def law(share):
        return {"entropy": share, "distinct_2": share, "kl_guide_posterior": share}

    means = {"prior": law(1.0), f"{PURE}, sampled": law(0.9), f"{PENALISED}, sampled": law(0.15)}
    findings = [
        *collapse_findings(means, "here", ("entropy", "distinct_2")),
        *posterior_findings(means),
    ]
    assert not any(finding.held for finding in findings)
    runs = [{"success": 0.5, "shift": 2.0, "kl_success": 0.0, "kl_failure": 0.2, "moved": 1.0}]
    assert not any(
        f.held for f in binary_findings({"posterior": runs, f"{PENALISED}, sampled": runs}, 1.0)
    )
    good = {
        "prior": law(1.0),
        f"{PURE}, exact": law(1e-3) | {"kl_guide_posterior": 9.0},
        f"{PENALISED}, exact": law(0.9) | {"kl_guide_posterior": 0.0},
    }
    assert all(
        finding.held
        for finding in [*collapse_findings(good, "here", ("entropy",)), *posterior_findings(good)]
    )
    nan = {
        f"{way}, sampled": law(math.nan) for way in (PURE, PENALISED)
    }  # beside good ones, and after them
    findings = [
        *collapse_findings(good | nan, "here", ("entropy",)),
        *posterior_findings(good | nan),
    ]
    assert not any(finding.held for finding in findings)
    still = [{**runs[0], "kl_failure": 0.0}]
    assert not binary_findings({"posterior": runs, PURE: still}, 1.0)[1].held


def test_reward_only_has_the_gradient_of_the_reward_alone(prior, truth):
    """Its mean over many draws, against the sum over all responses, for a guide away from the prior."""
    guide = moved_guide(prior, 0.05)
    (
        -(log_guide_at(guide, truth.prompts, truth.support).exp() * truth.log_likelihood).sum()
    ).backward()
    bias = guide.language_model.network.transformer.ln_f.bias
    exact = bias.grad.clone()
    model, found = AlignmentModel(prior, REWARDS["vader"](prior), 0.3), []
    for _ in range(40):
        guide.zero_grad()
        with parameter_scope(guide):
            loss = RewardOnly(64).loss_and_grads(model, guide, truth.prompts)
        found.append(bias.grad.clone())
    gradients = torch.stack(found)
    error = gradients.std(0) / math.sqrt(len(gradients))
    assert ((gradients.mean(0) - exact).abs() < 5 * error).all()
    assert (exact.abs() > 10 * error).any()
    assert -loss == pytest.approx(truth.expected_log_likelihood(guide).item(), abs=1)


@pytest.mark.slow
def test_script(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(collapse, "grammar_prior", lambda **_: prior)
    findings = main(
        Collapse(steps=4, seeds=2, particles=8, text_steps=1, draws=64, threads=1, out=tmp_path)
    )
    held = {finding.statement: finding.held for finding in findings}
    exact = [said for said in held if said.startswith("binary reward shifts the posterior's")]
    assert held[exact[0]]
    assert not any(ok for said, ok in held.items() if said.startswith(f"{PURE} on text")), (
        "one step collapses nothing"
    )
    printed = capsys.readouterr().out
    assert "log-odds shift" in printed
    assert "did NOT hold" in printed
    assert len(list(tmp_path.rglob("collapse.svg"))) == 1

"""The identity holds, in value and in gradient, and the checks see a difference."""

from importlib.util import find_spec

import pytest
import torch

from experiments.equivalence.__main__ import Equivalence, identity_errors, main, sentiment
from experiments.equivalence.gradient import gradient_at, reinforce_error
from experiments.equivalence.trl_gradient import by_prompt, one_step, trl_error
from experiments.shared.gradients import moved_guide, relative_error
from inference import LeaveOneOut_ELBO
from model.prior.named_priors import load_prior


@pytest.mark.slow
def test_every_check_holds(capsys):
    findings = main(Equivalence(samples=4, threads=1))
    has_trl = find_spec("trl") is not None
    assert len(findings) == 7 + has_trl
    assert all(finding.held for finding in findings), findings
    printed = capsys.readouterr().out
    assert f"The claim held: {len(findings)} of {len(findings)} findings." in printed
    assert ("(d) was left out, as TRL is not installed" in printed) != has_trl


def test_checks_see_a_wrong_beta(prior, prompts, monkeypatch):
    """The errors are of order 1 if the reward is divided by another beta than the RL side's."""
    model = sentiment(prior, 0.3)
    assert max(identity_errors(model, prompts.texts)) < 1e-10
    assert reinforce_error(model, prompts, 2) < 1e-6
    monkeypatch.setattr(type(model), "beta", 0.6)
    assert identity_errors(model, prompts.texts)[1] > 0.1
    assert reinforce_error(model, prompts, 2) > 0.1


def test_shuffled_completions_are_sorted_by_prompt(prior):
    prompts = prior.encode(["the film was", "the plot was"])
    first, second = prompts.ids.tolist()
    batch = {
        "prompt_ids": torch.tensor([second, first, first, second]),
        "prompt_mask": torch.ones(4, len(first)),
        "completion_ids": torch.tensor([[5, 6], [4, 0], [3, 2], [1, 0]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]),
    }
    response = by_prompt(batch, prompts, pad_id=9, length=3)
    assert response.tolist() == [[[4, 9, 9], [5, 6, 9]], [[3, 2, 9], [1, 0, 9]]]


def test_gradient_of_trl_is_the_gradient_of_leave_one_out():
    pytest.importorskip("trl")
    prior = load_prior("film-reviews", max_new_tokens=8)
    prompts = prior.encode(["The film was", "The plot was"])
    model = sentiment(prior, 0.3)
    assert trl_error(model, prompts, 4) < 1e-5
    guide = moved_guide(prior)
    response, by_trl = one_step(model, guide, prompts, 4)
    other = gradient_at(model, guide, prompts, response.flip(1), LeaveOneOut_ELBO(4))
    assert relative_error(by_trl * 2 / 0.3, other) > 0.1

"""Posteriors that a trainer reaches with a sampler that is not the guide."""

import pytest
import torch

from experiments.sampled_not_scored.__main__ import SampledNotScored, judged, main
from experiments.sampled_not_scored.tree import SAMPLERS, Tree, ascend, top_k, top_p
from inference import Enumeration
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment


def test_every_finding_holds(capsys):
    findings = main(SampledNotScored())
    assert len(findings) == 3 * len(SAMPLERS) - 2
    assert all(finding.held for finding in findings)
    printed = capsys.readouterr().out
    assert "top-k of 3, scored as sampled" in printed
    assert "last update" in printed


def test_tree_starts_at_the_prior():
    prior = grammar_prior(max_new_tokens=2)
    prompts = prior.encode(["the film was"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    log_prior = Enumeration(model, prompts).log_prior[:, 0]
    tree = Tree(model, prompts)
    torch.testing.assert_close(tree.log_prob(SAMPLERS["as scored"]), log_prior, rtol=0, atol=1e-5)


def test_the_last_update_tells_whether_the_ascent_has_converged():
    prior = grammar_prior(max_new_tokens=1)
    prompts = prior.encode(["the film was"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    log_joint, scored = Enumeration(model, prompts).log_joint[:, 0], SAMPLERS["as scored"]
    early, late = (ascend(Tree(model, prompts), scored, scored, log_joint, n) for n in (1, 400))
    assert early > 0.05
    assert late < 1e-3


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (top_k(2), [0.5, 0.3, 0.0, 0.0]),
        (top_p(0.7), [0.5, 0.3, 0.0, 0.0]),
        (top_p(0.5), [1, 0, 0, 0]),
    ],
)
def test_samplers_keep_the_likeliest_tokens(sampler, expected):
    prob = torch.tensor([0.5, 0.3, 0.15, 0.05]).double()
    drawn = torch.tensor(expected).double()
    torch.testing.assert_close(sampler(prob.log()).exp(), drawn / drawn.sum())


def test_sampler_that_is_the_posterior_is_no_finding():
    numbers = {"guide, given support": 0.0, "sampler": 0.0, "sampler, given support": 0.0}
    held = [finding.held for finding in judged("top-k", numbers, is_scored=False)]
    assert held == [True, False]

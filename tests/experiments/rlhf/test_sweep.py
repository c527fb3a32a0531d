"""Posteriors of a proxy at many betas against enumeration."""

import pytest
import torch

from experiments.rlhf.text_sample import TextSample, sweep
from inference import Enumeration
from model import AlignmentModel, TextReward, grammar_prior
from model.preferences import AGGREGATIONS
from tests.experiments.rlhf.small import gold


def test_a_sweep_is_the_posterior_that_enumeration_has(prior, every):
    """Identity: KL(p* || p0) and E_p*[gold] of the model with the aggregated reward."""
    lengths = 0.1 * torch.tensor([float(len(text)) for text in every.texts])
    rewards = torch.stack([every.gold, -0.5 * every.gold, lengths])
    for aggregate in AGGREGATIONS.values():
        curve = sweep(every, rewards, aggregate, torch.tensor([0.3]))
        reward_of = dict(zip(every.texts, (0.3 * aggregate(rewards, 0.3)).tolist(), strict=True))
        reward = TextReward(lambda texts, table=reward_of: [table[text] for text in texts], prior)
        truth = Enumeration(AlignmentModel(prior, reward, beta=0.3), prior.encode(["the film was"]))
        posterior = truth.log_posterior[:, 0]
        assert curve.kl.item() == pytest.approx(
            (posterior.exp() * (posterior - truth.log_prior[:, 0])).sum().item(), abs=1e-6
        )
        assert curve.gold.item() == pytest.approx((posterior.exp() @ every.gold).item(), abs=1e-6)


def test_a_sweep_of_draws_is_near_the_exact_sweep_and_ends_where_draws_are_few():
    """Consistent: 4,000 draws are near the exact curve if no unseen response matters."""
    prior = grammar_prior()
    every, draws = (
        TextSample.of(prior, "the film was", gold),
        TextSample.of(prior, "the film was", gold, 4000),
    )
    assert (every.responses.exact, draws.responses.exact) == (True, False)
    betas = torch.logspace(1, -3, 30)
    exact, curve = (
        sweep(sample, sample.gold[None], AGGREGATIONS["mean"], betas) for sample in (every, draws)
    )
    near = exact.kl[: len(curve.kl)] < 0.7
    assert near.sum() > 5
    assert torch.allclose(curve.kl[near], exact.kl[: len(curve.kl)][near], rtol=0, atol=0.05)
    assert len(exact.beta) == 30
    tilted = sweep(
        draws, torch.arange(4000.0).double()[None], AGGREGATIONS["mean"], torch.logspace(4, 0, 30)
    )
    assert 0 < len(tilted.beta) < 30
    assert bool((tilted.effective_sample_size >= 100).all())
    assert tilted.gold_at(8.0) != tilted.gold_at(8.0)  # NaN
    assert exact.gold_at(100.0) == exact.gold[-1]


def test_a_sweep_without_any_trusted_posterior_is_refused(prior):
    draws = TextSample.of(prior, "the film was", gold, 64)
    with pytest.raises(
        ValueError, match=r"none of 2 betas .* min_effective = 100 draws, the most is 6\d\.\d of 64"
    ):
        sweep(draws, draws.gold[None], AGGREGATIONS["mean"], torch.tensor([1.0, 10.0]))
    with pytest.raises(ValueError, match="none of 0 betas"):
        sweep(draws, draws.gold[None], AGGREGATIONS["mean"], torch.tensor([]), min_effective=0)

"""Twisted prior: contains the posterior at the soft value function; the twist leads SMC there."""

import math

import pytest
import torch
from torch import nn

from guides import FineTuned, Twisted
from inference import SAMPLERS, Enumeration, FusedOptimizer, cosine, fit, sequential_monte_carlo
from inference.objectives import ContrastiveTwist
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from tests.model.tiny import PROMPTS, tiny


@pytest.fixture(scope="module")
def small_prior():
    return grammar_prior(max_new_tokens=2)


@pytest.fixture(scope="module")
def model(small_prior):
    return AlignmentModel(
        small_prior, TextReward(vader_sentiment, small_prior, upper_bound=1.0), beta=0.3
    )


@pytest.fixture(scope="module")
def prompts(small_prior):
    return small_prior.encode(["the film was", "the plot was"])


@pytest.fixture(scope="module")
def truth(model, prompts):
    return Enumeration(model, prompts)


def soft_value(truth):
    """log E_p0[exp(r/beta) | x_<=t], `[S, N, T]`: sums over responses with the same prefix."""
    steps = []
    for t in range(truth.support.shape[-1]):
        # [S, S, N]
        same = (truth.support[:, None, :, : t + 1] == truth.support[None, :, :, : t + 1]).all(-1)
        joint, prior = (
            torch.where(same, log_p, -math.inf).logsumexp(1)
            for log_p in (truth.log_joint, truth.log_prior)
        )
        steps.append(joint - prior)
    return torch.stack(steps, -1)


@pytest.fixture(scope="module")
def optimal(small_prior, prompts, truth):
    """Guide with the soft value function as the head: linear, since 20 states are independent.

    No state is looked up among others: another batch shape rounds a state to other digits.
    """
    _, hidden = small_prior(prompts).log_prob_and_hidden(truth.support)  # [S, N, T, H]
    value, is_token = soft_value(truth), small_prior.space.is_token(truth.support)
    head = nn.Linear(hidden.shape[-1], small_prior.vocab_size, bias=False, dtype=torch.float64)
    for token in range(small_prior.vocab_size):
        comes = is_token & (truth.support == token)
        solved = torch.linalg.lstsq(
            hidden[comes].cpu(), value[comes][:, None].cpu(), rcond=1e-9, driver="gelsd"
        )
        with torch.no_grad():
            head.weight[token] = solved.solution[:, 0]
    return Twisted(small_prior, head=head.to(hidden.device))


def test_contains_the_posterior_at_the_soft_value_function(optimal, truth):
    assert truth.kl_guide_posterior(FineTuned(optimal.prior)).min() > 0.1
    assert truth.kl_guide_posterior(optimal).max() < 1e-10
    assert truth.kl_posterior_guide(optimal).max() < 1e-10


def test_twist_at_the_soft_value_function_makes_smc_exact(model, prompts, truth, optimal):
    """Proposal and twist are both optimal: no weight ever moves, and log Z is exact on any draw."""
    posterior = sequential_monte_carlo(
        model, prompts, guide=optimal, twist=optimal.twist, num_samples=4, ess_threshold=0.999
    )
    assert torch.allclose(posterior.log_z, truth.log_z, atol=1e-10)
    assert posterior.diagnostics["num_resamplings"].sum() == 0
    assert torch.allclose(posterior.effective_sample_size, torch.tensor(4.0, dtype=torch.float64))


def test_both_twists_are_the_logits_less_the_priors(prompts, small_prior):
    """`twist` at each t and `log_twist` at once, against log q - log p0."""
    guide = moved(Twisted(small_prior))
    response = small_prior(prompts).enumerate_support()
    log_psi = guide.log_twist(prompts, response)
    logits = [
        program.next_token_logits(response)
        for program in (guide.distribution(prompts), small_prior(prompts))
    ]
    expected = (logits[0] - logits[1]).gather(-1, response[..., None]).squeeze(-1)
    is_token = small_prior.space.is_token(response)
    assert expected[is_token].abs().min() > 1e-3
    assert torch.allclose(log_psi, expected * is_token, atol=1e-12)
    for t in (1, 2):
        picked = is_token[..., t - 1]
        assert torch.allclose(
            guide.twist(prompts, response, t)[picked], log_psi[..., t - 1][picked], atol=1e-12
        )


def moved(guide, scale=0.3):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += scale * torch.randn_like(parameter)
    return guide


def test_registered_twisted_smc_takes_the_guides_twist(model, prompts, optimal, monkeypatch):
    steps, twist = [], optimal.twist
    monkeypatch.setattr(optimal, "twist", lambda *args: steps.append(args[-1]) or twist(*args))
    SAMPLERS["twisted-smc"](model, prompts, guide=optimal, num_samples=4)
    assert steps


@pytest.mark.slow
def test_contrastive_learning_finds_the_soft_value_function(model, prompts, truth, small_prior):
    """psi is log p*/p0 of the prefix up to a constant for each prompt and position."""
    guide = Twisted(small_prior)
    optimizer = FusedOptimizer(options={"lr": 2e-2}, schedule=cosine(150))
    options = {"objective": ContrastiveTwist(64), "optimizer": optimizer, "progress": False}
    fit(model, guide, prompts, num_steps=150, **options)
    assert truth.kl_guide_posterior(guide).max() < 0.02
    value, log_psi = soft_value(truth), guide.log_twist(prompts, truth.support).detach()
    error = (log_psi - value)[..., 0]
    mean = (truth.log_posterior.exp() * error).sum(0)
    assert (truth.log_posterior.exp() * (error - mean).square()).sum(0).max().sqrt() < 0.15


@pytest.mark.parametrize("network", ["gpt2", "llama"])
def test_top_k_keeps_the_priors_likely_tokens_and_normalises_over_them(network):
    prior = tiny(network, temperature=0.7)
    prompts = prior.encode(PROMPTS)
    guide = moved(Twisted(prior, top_k=2))
    distribution, support = guide.distribution(prompts), prior(prompts).enumerate_support()
    log_prob = distribution.log_prob(support)
    assert torch.allclose(log_prob.exp().sum(0), torch.ones(len(prompts), dtype=torch.float64))
    likely = prior(prompts).next_token_logits(support).topk(2).indices
    allowed = ((likely == support[..., None]).any(-1) | ~prior.space.is_token(support)).all(-1)
    assert torch.equal(log_prob > -math.inf, allowed)
    assert 0 < allowed.sum() < allowed.numel() / 2
    assert (distribution.log_prob(distribution.sample((50,))) > -math.inf).all()
    log_prob[allowed].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in guide.trained().values())


def test_dropout_of_a_head_is_held_off(prompts, small_prior):
    """Dropout would make samples differ from scores."""
    size, width = small_prior.network.get_output_embeddings().weight.shape
    head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(width, size).double())
    guide = Twisted(small_prior, head=head.to(small_prior.device))
    guide.head.train()
    distribution = guide.distribution(prompts)
    support = distribution.enumerate_support()
    assert torch.equal(distribution.log_prob(support), distribution.log_prob(support))


def test_nothing_goes_back_through_the_network(prompts, small_prior):
    guide = moved(Twisted(small_prior))
    log_prob = guide.distribution(prompts).log_prob(small_prior(prompts).sample((3,)))
    visited, waiting = set(), [log_prob.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in visited:
            visited.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    assert len(visited) < 40

"""The gradient of the reward alone, against the sum over all responses."""

import math

import pytest
import torch

from inference import Enumeration, log_guide_at
from inference.diagnostics.gradients import moved_guide
from inference.objectives.leave_one_out import RewardOnly
from inference.programs import parameter_scope
from model import AlignmentModel, TextReward, vader_sentiment


def test_reward_only_has_the_gradient_of_the_reward_alone(prior):
    """Mean over many draws for a guide away from the prior."""
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    truth = Enumeration(model, prior.encode(["the film was"]))
    guide = moved_guide(prior, 0.05)
    log_guide = log_guide_at(guide, truth.prompts, truth.support)
    (-(log_guide.exp() * truth.log_likelihood).sum()).backward()
    bias = guide.language_model.network.transformer.ln_f.bias
    exact, gradients = bias.grad.clone(), []
    for _ in range(40):
        guide.zero_grad()
        with parameter_scope(guide):
            loss = RewardOnly(64).loss_and_grads(model, guide, truth.prompts)
        gradients.append(bias.grad.clone())
    mean = torch.stack(gradients).mean(0)
    error = torch.stack(gradients).std(0) / math.sqrt(len(gradients))
    assert ((mean - exact).abs() < 5 * error).all()
    assert (exact.abs() > 10 * error).any()
    assert -loss == pytest.approx(truth.expected_log_likelihood(guide).item(), abs=1)

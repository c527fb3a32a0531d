"""The minimum of a loss without noise."""

import torch

from model.common.minimise import minimise


def test_the_minimum_of_a_convex_loss_is_reached_and_its_value_returned():
    """logsumexp(x) - p.x has its minimum, the entropy of p, at softmax(x) = p."""
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = minimise(lambda: x.logsumexp(0) - p @ x, [x], max_steps=50)
    assert torch.allclose(x.detach().softmax(0), p, atol=1e-8)
    assert abs(loss + (p * p.log()).sum().item()) < 1e-12
    assert x.grad.abs().max() < 1e-8


def test_the_descent_ends_after_the_largest_number_of_steps():
    x = torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True)
    loss = minimise(lambda: (x**4).sum(), [x], max_steps=1)
    assert 0 < loss < 2 * 3.0**4

"""The fused optimiser: torch's steps, one norm over all parameters, no step on a bad gradient."""

import math

import pyro
import pytest
import torch

from inference import FusedOptimizer, cosine
from inference.svi.optimizer.checked import NonFiniteGradientError
from inference.svi.optimizer.fused import constant


def two_parameters():
    pyro.clear_param_store()
    return [
        pyro.param("a", torch.tensor([1.0, 2.0])).unconstrained(),
        pyro.param("b", torch.tensor([[3.0]])).unconstrained(),
    ]


def set_gradients(parameters, step):
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, (-1.0) ** step * (i + 1) * (step + 1))


@pytest.mark.parametrize("schedule", [constant, cosine(5, warmup=2)])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("constructor", [torch.optim.Adam, torch.optim.SGD])
def test_same_steps_as_torch(constructor, clip_norm, schedule):
    """Adam, which ignores the scale of a gradient, and SGD, with steps as long as the clip."""
    ours, theirs = two_parameters(), [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    optimizer = FusedOptimizer(constructor, {"lr": 0.1}, clip_norm=clip_norm, schedule=schedule)
    reference = constructor(theirs, lr=0.1, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(reference, schedule)
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs, clip_norm or math.inf)
        optimizer(set(ours))
        reference.step()
        scheduler.step()
        assert optimizer.grad_norm == pytest.approx(norm.item())
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    assert all(parameter.grad is None for parameter in ours)


@pytest.mark.parametrize("clip_norm", [0.5, 100.0])
def test_a_step_is_no_longer_than_the_clip_and_a_short_step_is_unchanged(clip_norm):
    parameters = two_parameters()
    before = [parameter.clone() for parameter in parameters]
    set_gradients(parameters, 0)  # 1, 1 and 2: a norm of sqrt(6)
    FusedOptimizer(torch.optim.SGD, {"lr": 1.0}, clip_norm=clip_norm)(parameters)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, parameters, strict=True)])
    assert moved.norm().item() == pytest.approx(min(clip_norm, math.sqrt(6)), rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_gradient_leaves_parameters_alone(bad):
    parameters = two_parameters()
    optimizer = FusedOptimizer()
    set_gradients(parameters, 0)
    parameters[1].grad[0, 0] = bad
    before = [parameter.clone() for parameter in parameters]
    match = "at step 0; the parameters were left as they were"
    with pytest.raises(NonFiniteGradientError, match=match):
        optimizer(parameters)
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert optimizer.step_count == 0


def test_state_goes_over_to_another_optimiser():
    """Three steps, state by name to a new optimiser, two more: equal to five steps."""
    whole, split = two_parameters(), None
    optimizer = FusedOptimizer(options={"lr": 0.1}, schedule=cosine(5))
    for step in range(5):
        set_gradients(whole, step)
        optimizer(whole)
    expected = [parameter.clone() for parameter in whole]

    split = two_parameters()
    first, second = (FusedOptimizer(options={"lr": 0.1}, schedule=cosine(5)) for _ in range(2))
    for step in range(5):
        if step == 3:
            second.set_state(first.get_state())
        set_gradients(split, step)
        (first if step < 3 else second)(split if step < 3 else split[::-1])
    assert all(torch.equal(a, b) for a, b in zip(split, expected, strict=True))


def test_parameters_met_later_are_trained_too():
    first, second = two_parameters()
    optimizer = FusedOptimizer(torch.optim.SGD, {"lr": 1.0})
    first.grad = torch.ones_like(first)
    optimizer([first])
    first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
    optimizer([first, second])
    assert first.tolist() == [-1.0, 0.0]
    assert second.tolist() == [[2.0]]


def test_cosine_goes_up_then_down_to_zero():
    schedule = cosine(10, warmup=2)
    assert [schedule(step) for step in (0, 1, 2, 6, 10, 11)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    )

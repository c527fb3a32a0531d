"""A seed fixes all numbers of a computation on several threads, and the settings come back."""

import pytest
import torch

from inference import random_state


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def gradient_of_an_indexed_tensor():
    rows = torch.ones(2, 64, requires_grad=True)
    (rows[torch.arange(20_000) % 2] * torch.randn(20_000, 64)).sum().backward()
    return rows.grad


def test_gradients_on_two_threads_are_those_of_the_seed(two_threads):
    """torch lets threads race for the gradient of an index unless it is told not to."""
    gradients = []
    for _ in range(6):
        with random_state.isolated(0, torch.device("cpu")):
            gradients.append(gradient_of_an_indexed_tensor())
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_settings_of_the_caller_come_back(mode):
    torch.set_deterministic_debug_mode(mode)
    try:
        with random_state.isolated(0, torch.device("cpu")):
            assert torch.get_deterministic_debug_mode() == (2 if mode == "error" else 1)
        assert torch.get_deterministic_debug_mode() == ["default", "warn", "error"].index(mode)
    finally:
        torch.set_deterministic_debug_mode("default")


def test_an_accelerator_has_an_open_order_of_sums():
    """An accelerator has few sums of a fixed order."""
    with random_state.isolated(0, torch.device("cuda")):
        assert torch.get_deterministic_debug_mode() == 0

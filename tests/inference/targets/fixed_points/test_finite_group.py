"""Targets of finite groups, by the exact mean gradient of the objectives themselves."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from inference import OBJECTIVES, Enumeration
from inference.objectives import grpo as objective_module
from inference.targets.fixed_points import TARGETS, Problem
from inference.targets.fixed_points.scaled_advantages import EPSILON, Groups
from tests.inference.objectives.table import ONE, Table, Target, mean_gradient
from tests.inference.objectives.test_matrix import WEIGHT, problem_of
from tests.inference.objectives.test_squared_residual import put


@pytest.mark.parametrize("size", [2, 4])
def test_advantage_is_the_mean_over_all_groups(size):
    generator = torch.Generator().manual_seed(0)
    log_guide = torch.randn(5, generator=generator).double().log_softmax(0)
    reward = torch.tensor([0.2, 1.0, 1.0, -0.5, 3.0]).double()
    expected = torch.zeros(5).double()
    for others in product(range(5), repeat=size - 1):
        mass = log_guide[list(others)].sum().exp()
        for own in range(5):
            group = reward[[own, *others]]
            expected[own] += mass * (reward[own] - group.mean()) / (group.std() + EPSILON)
    advantage = Groups(reward, size).advantage(log_guide)
    assert_close(advantage, expected, rtol=1e-9, atol=1e-12)
    assert abs(log_guide.exp() @ advantage) < 1e-12


def test_epsilon_is_that_of_the_objective():
    assert objective_module.EPSILON == EPSILON


@pytest.mark.parametrize(
    ("name", "target", "options"),
    [
        ("grpo", "grpo-token-k3", {}),
        ("grpo", "grpo-token-kl", {"estimator": "k2"}),
        ("gspo", "grpo-mean-k3", {}),
        ("dr-grpo", "token-forward-kl", {}),
        ("dr-grpo", "token-reverse-kl", {"estimator": "k2"}),
    ],
)
def test_mean_gradient_of_small_groups_vanishes_at_the_target(name, target, options):
    """Over all groups of three responses; the target of large groups is another."""
    model, size, guide = Target(), 3, Table(1)
    truth = Enumeration(model, ONE)
    problem = problem_of(truth)
    make = OBJECTIVES[name]
    assert TARGETS[target].has_groups
    log_q = TARGETS[target](problem, group_size=size)

    def gradient_at(log_q: torch.Tensor) -> float:
        put(guide, truth, log_q)
        choices = {"num_particles": size, "kl_weight": WEIGHT, **options}
        mean = mean_gradient(lambda: make(**choices), model, guide, ONE, size)
        return mean.norm().item()

    assert gradient_at(log_q) < 1e-9
    assert gradient_at(TARGETS[target](problem)) > 1e-3


@pytest.mark.parametrize("name", ["grpo", "grpo-k3"])
def test_large_groups_have_the_target_of_the_limit(name):
    """A binary reward: the distance falls as 1/K."""
    prior = torch.tensor([[0.7], [0.3]]).double().log()
    problem = Problem(prior, torch.tensor([[0.0], [1.0]]).double(), 2.0)
    limit = TARGETS[name](problem)[1].exp().item()
    errors = [
        abs(TARGETS[name](problem, group_size=size)[1].exp().item() - limit)
        for size in (8, 64, 512)
    ]
    assert errors[0] > 1e-3
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5


def test_small_groups_have_a_target_where_large_ones_have_none():
    prior = torch.tensor([[0.8], [0.2]]).double().log()
    problem = Problem(prior, torch.tensor([[0.0], [1.0]]).double(), 0.5)
    with pytest.raises(ValueError, match="there is no fixed point"):
        TARGETS["grpo"](problem)
    share = TARGETS["grpo"](problem, group_size=8)[:, 0].exp()
    assert share[0] > 1e-6
    with pytest.raises(ValueError, match="group_size is 1"):
        TARGETS["grpo"](problem, group_size=1)
    many = Problem(torch.zeros(60, 1).double().log_softmax(0), torch.arange(60.0)[:, None], 1.0)
    with pytest.raises(ValueError, match="groups of 8 with 60 different rewards have"):
        TARGETS["grpo"](many, group_size=8)

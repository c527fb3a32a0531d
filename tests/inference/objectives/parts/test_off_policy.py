"""Bolder draws at a stated distance from the guide, and the buffer of earlier responses."""

import math

import pytest
import torch

from inference import Enumeration, SquaredResidual, random_state
from inference.objectives.parts.off_policy import (
    DECAY,
    GROWTH,
    LARGEST,
    START,
    Exploration,
    ReplayBuffer,
    tempered,
)
from tests.inference.objectives.table import ONE, TWO, Table, Target, autograd, gradient


def log_ratio_of(guide, truth, temperature):
    """log a and log a - log q of all responses, `[M, N]`, for a at the temperature."""
    distribution = guide.distribution(truth.prompts)
    bolder = tempered(distribution, temperature).log_prob(truth.support).detach()
    return bolder, bolder - distribution.log_prob(truth.support).detach()


@pytest.mark.parametrize("kl", [0.01, 0.04])
def test_the_kl_of_the_draws_becomes_the_stated_one(kl):
    """Size, and KL up to third order, by enumeration: means over prompts."""
    guide, truth = Table(1), Enumeration(Target(), TWO)
    exploration = Exploration(kl)
    with random_state.isolated(0):
        for _ in range(12):
            bolder, log_ratio = log_ratio_of(guide, truth, exploration.temperature)
            drawn = torch.multinomial(bolder.exp().T, 4000, replacement=True).T  # [K, N]
            exploration.measure(log_ratio.gather(0, drawn))
    bolder, log_ratio = log_ratio_of(guide, truth, exploration.temperature)
    size = (0.5 * bolder.exp() * log_ratio.square()).sum(0).mean().item()
    assert size == pytest.approx(kl, rel=0.08)
    exact = (bolder.exp() * log_ratio).sum(0).mean().item()
    assert exact == pytest.approx(kl, rel=0.2)


def test_a_longer_response_has_a_lower_temperature():
    """The size of T independent tokens is near T times that of one: temperature - 1 falls."""
    temperatures = {}
    for length in (1, 16):
        exploration, generator = Exploration(0.1), torch.Generator().manual_seed(0)
        for _ in range(12):
            scale = exploration.temperature - 1
            draws = torch.randn(4000, 1, length, generator=generator)
            exploration.measure(scale * draws.sum(-1))
        temperatures[length] = exploration.temperature - 1
    assert temperatures[1] == pytest.approx(4 * temperatures[16], rel=0.1)


def test_changes_of_the_temperature_are_bounded():
    for size, factor in ((0.0, GROWTH), (1e9, DECAY), (math.nan, DECAY)):
        exploration = Exploration(0.1)
        exploration.measure(torch.full((2, 1), size))
        assert exploration.temperature - 1 == pytest.approx(factor * (START - 1))
    for _ in range(9):
        exploration.measure(torch.zeros(2, 1))
    assert exploration.temperature == LARGEST


def test_without_exploration_the_guide_draws():
    exploration = Exploration(0.0)
    exploration.measure(torch.zeros(2, 1))
    assert exploration.temperature == 1.0


def test_the_objective_draws_at_the_temperature_and_measures_each_batch_once():
    """The draws have the density of a; later steps on a batch leave the temperature as it is."""
    model, guide = Target(), Table(1)
    objective, draws = SquaredResidual(5, exploration_kl=0.1, epochs=2), []
    other = Exploration(0.1)
    for step in range(6):
        response = guide.distribution(TWO).sample((5,)) if step % 2 == 0 else None
        temperature = objective.exploration.temperature
        gradient(objective, model, guide, TWO, response if response is not None else draws[-1])
        if response is not None:
            draws.append(response)
            distribution = guide.distribution(TWO)
            log_proposal = tempered(distribution, temperature).log_prob(response).detach()
            assert torch.allclose(objective._batch.log_proposal, log_proposal.double())
            other.measure(log_proposal - distribution.log_prob(response).detach())
        assert objective.exploration.temperature == pytest.approx(other.temperature, rel=1e-12)
    assert other.temperature != START


def test_bolder_draws_keep_the_posterior_as_the_target():
    """Mean gradient over all pairs of bolder draws: half the variance under a, 0 at p*."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    total = 0.0
    bolder, _ = log_ratio_of(guide, truth, START)
    number = range(len(truth.support))
    for first in number:
        for second in number:
            objective, pair = SquaredResidual(2, exploration_kl=0.1), [first, second]
            part = gradient(objective, model, guide, ONE, truth.support[pair])[1]
            total = total + bolder[pair].sum().exp() * part
    log_weight = truth.log_joint - guide.distribution(ONE).log_prob(truth.support)
    weight = bolder.exp()
    loss = 0.5 * (weight * (log_weight - (weight * log_weight).sum(0)).square()).sum()
    assert torch.allclose(total, autograd(loss, guide), rtol=1e-9, atol=1e-12)


def rows(*values):
    return torch.tensor(values)[:, None]  # [K, T] -> [K, 1, T]


def test_buffer_keeps_each_response_once_with_its_own_density():
    buffer = ReplayBuffer(capacity=10)
    buffer.add(ONE, rows([1, 2], [1, 1], [1, 2]), torch.tensor([[0.12], [0.11], [0.12]]))
    buffer.add(ONE, rows([2, 0], [1, 1]), torch.tensor([[0.20], [0.11]]))
    response, log_joint = buffer.draw(ONE, 3)
    assert response.shape == (3, 1, 2)
    actual = {
        (a, b): round(value, 2)
        for (a, b), value in zip(response[:, 0].tolist(), log_joint[:, 0].tolist(), strict=True)
    }
    assert actual == {(1, 2): 0.12, (1, 1): 0.11, (2, 0): 0.2}  # three draws, none twice


def test_oldest_leave_a_full_buffer_first():
    buffer = ReplayBuffer(capacity=2)
    buffer.add(ONE, rows([1, 1], [1, 2], [2, 2]), torch.zeros(3, 1))
    assert buffer.memory[ONE.names()[0]].response.tolist() == [[1, 2], [2, 2]]
    buffer.add(ONE, rows([1, 2], [2, 1]), torch.zeros(2, 1))
    assert buffer.memory[ONE.names()[0]].response.tolist() == [[2, 2], [2, 1]]


def test_buffers_of_prompts_are_apart_and_small_ones_are_drawn_again():
    buffer = ReplayBuffer(capacity=10)
    buffer.add(TWO, torch.tensor([[[1, 1], [2, 2]]]), torch.tensor([[0.1, 0.2]]))
    response, log_joint = buffer.draw(TWO, 4)
    assert response.tolist() == [[[1, 1], [2, 2]]] * 4
    assert torch.allclose(log_joint, torch.tensor([0.1, 0.2]).expand(4, 2))

"""State of objectives over steps: averages of Z, replayed responses, snapshots, best of n."""

import math

import pyro
import pytest
import torch

from inference import OBJECTIVES, BestOfN_ELBO, Enumeration, ResponseObjective
from inference.objectives.f_divergence import in_place, snapshot
from inference.objectives.parts.log_z_average import LogZAverage
from inference.objectives.parts.off_policy import ReplayBuffer
from inference.order_statistics import best_of_n_log_ratio, level_cdf
from model import Prompts
from tests.inference.objectives.table import ONE, TWO, Table, Target, gradient


def test_average_of_z_is_the_mean_at_first_and_then_a_moving_one():
    average = LogZAverage(decay=0.75)
    averages = [
        average.update(ONE, torch.tensor([z]).log())[0].exp().item()
        for z in (1.0, 2.0, 6.0, 7.0, 4.0, 4.0)
    ]
    assert averages[:4] == pytest.approx([1.0, 1.5, 3.0, 4.0])
    assert averages[4:] == pytest.approx([4.0, 4.0])
    last = average.update(ONE, torch.tensor([12.0]).log())[0].exp().item()
    assert last == pytest.approx(0.75 * 4 + 0.25 * 12)


def test_average_of_z_is_kept_by_prompt_and_begins_at_an_impossible_batch():
    average = LogZAverage()
    average.update(TWO, torch.tensor([0.0, -math.inf], dtype=torch.float64))
    both = average.update(TWO, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert both.tolist() == pytest.approx([0.0, 1.0 - math.log(2)])
    alone = average.update(TWO[[1]], torch.tensor([1.0], dtype=torch.float64))
    assert alone.tolist() == pytest.approx([math.log(2 / 3) + 1.0])


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


def test_earlier_parameters_are_in_place_for_a_while():
    guide = Table(1)
    with pyro.get_param_store().scope():
        guide(ONE)
        earlier, before = snapshot(), guide.first.detach().clone()
        with torch.no_grad():
            guide.first += 1.0
        with in_place(earlier):
            assert torch.equal(guide.first, before)
        assert torch.equal(guide.first, before + 1.0)


def test_distribution_of_the_best_of_n_from_many_prior_draws():
    """Consistent, ties included; finite for a reward that no draw has."""

    def coarse(prompts, response):
        return response[..., 0].double().clamp(max=1)  # two levels

    model = Target(coarse)
    truth = Enumeration(model, ONE)
    objective = BestOfN_ELBO(8, n=4, num_prior_draws=20_000)
    objective.prior_rewards.meet(model, ONE)
    exact = best_of_n_log_ratio(*level_cdf(truth.log_likelihood, truth.log_prior.exp()), 4)
    assert torch.allclose(objective.log_ratio(ONE, truth.log_likelihood), exact, atol=0.05)
    unseen = objective.log_ratio(ONE, torch.tensor([[-9.0], [9.0]], dtype=torch.float64))
    assert unseen.isfinite().all()
    assert unseen[1] > math.log(3.9)  # the best there is comes up four times as often


def gradients(name, reward, prompts, batches):
    """Gradients of three steps on the same draws, each on some of the prompts."""
    pyro.set_rng_seed(3)
    objective, model, actual = OBJECTIVES[name](num_particles=4), Target(reward), []
    guide = Table(0)
    for seed, batch in enumerate(batches):
        guide.load_state_dict(Table(seed).state_dict())
        some = prompts[batch]
        response = guide.distribution(some).sample((4,))
        actual.append(gradient(objective, model, guide, some, response)[1])
    return torch.stack(actual)


OURS = sorted(name for name in OBJECTIVES if isinstance(OBJECTIVES[name](), ResponseObjective))


@pytest.mark.parametrize("name", OURS)
def test_prompts_of_one_text_are_not_one_prompt(name):
    """Prompts differ by token ids, in one batch or several, or by position in one batch."""

    def by_position(prompts, response):
        return torch.arange(len(prompts)) * 3.0 + 0.3 * response[..., 0] * (
            1 - 2 * torch.arange(len(prompts))
        )

    def by_ids(prompts, response):
        last = prompts.ids[:, -1].double()
        return 3 * last + response[..., 0] * (last - 1.5)

    for rows, reward, batches in (
        ([[1], [2]], by_ids, ([0, 1], [1], [0])),
        ([[1], [1]], by_position, ([0, 1], [0, 1], [0, 1])),
    ):
        same, other = (
            gradients(name, reward, Prompts.from_ids(rows, texts), batches)
            for texts in (["x", "x"], ["x", "y"])
        )
        assert same.abs().max() > 1e-3
        assert torch.allclose(same, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OURS)
def test_differentiable_loss_has_the_same_value_gradient_and_metrics(name):
    """Use by Pyro's loops other than SVI."""
    model, guide, losses = Target(), Table(1), []
    for differentiable in (False, True):
        pyro.set_rng_seed(0)
        guide.zero_grad()
        objective = OBJECTIVES[name](num_particles=4)
        with pyro.get_param_store().scope():
            if differentiable:
                loss = objective.differentiable_loss(model, guide, TWO)
                loss.backward()
            else:
                loss = torch.tensor(objective.loss_and_grads(model, guide, TWO))
        losses.append((loss.detach().double(), objective.metrics, guide.first.grad.clone()))
    (loss, metrics, grad), (other_loss, other_metrics, other_grad) = losses
    assert torch.allclose(loss, other_loss)
    assert metrics == other_metrics
    assert grad.abs().max() > 1e-6
    assert torch.allclose(grad, other_grad)

"""State of objectives over steps: snapshots, the best of n, prompts of one text apart."""

import math

import pyro
import pytest
import torch

from inference import OBJECTIVES, BestOfN_ELBO, Enumeration
from inference.objectives.f_divergence import in_place, snapshot
from inference.order_statistics import best_of_n_log_ratio, level_cdf
from model import Prompts
from tests.inference.objectives.table import ONE, Table, Target, gradient
from tests.inference.objectives.uses import OURS


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

"""Squared residuals with each choice of log Z: mean gradients and targets, on- and off-policy."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from inference import Enumeration, SquaredResidual, log_guide_at
from inference.objectives.squared_residual import LOG_Z, log_z_of_quantile
from inference.targets.fixed_points import NoFixedPointError, Problem
from inference.targets.fixed_points.squared_residual import squared_residual
from tests.inference.objectives.table import (
    ONE,
    Table,
    Target,
    autograd,
    gradient,
    mean_gradient,
    posterior_guide,
)
from tests.inference.objectives.test_matrix import exact_loss

WRONG = 0.7
"""A constant that is not log Z, nats."""
OF_MODEL = sorted(LOG_Z.keys() - {"quantile"})


def choice(log_z: str, constant: float, num_particles: int = 3) -> SquaredResidual:
    """Objective with a learned or prior constant of a given value."""
    objective = SquaredResidual(num_particles, log_z=log_z)
    value = torch.tensor(constant, dtype=torch.float64)
    objective.learned = dict.fromkeys(ONE.names(), value)
    objective.prior_rewards.log_z = lambda prompts: value
    return objective


@pytest.mark.parametrize("log_z", OF_MODEL)
def test_on_policy_the_constant_does_not_bias_the_gradient(log_z):
    model, guide = Target(), Table(1)
    mean = mean_gradient(lambda: choice(log_z, WRONG), model, guide, ONE, 3)
    exact = autograd(exact_loss("leave-one-out", model, guide, ONE, 3), guide)
    assert_close(mean, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("log_z", OF_MODEL)
def test_off_policy_the_posterior_is_the_target_if_the_constant_is_log_z(log_z):
    model, sampler = Target(), Table(2)
    guide, truth = posterior_guide(model, ONE), Enumeration(model, ONE)

    def size(constant: float) -> float:
        make = partial(choice, log_z, constant)
        return mean_gradient(make, model, guide, ONE, 3, proposal=sampler).norm().item()

    assert size(truth.log_z.item()) < 1e-9
    reads_constant = LOG_Z[log_z].min_responses == 1
    assert (size(WRONG) > 0.01) == reads_constant


@pytest.mark.parametrize("above", [-0.5, -1e-3, 0.0, 1e-3, 0.05])
def test_constant_off_log_z_has_the_target_of_the_sampler(above):
    """The mean gradient from draws of another sampler vanishes at the closed form."""
    model, sampler = Target(), Table(2)
    truth = Enumeration(model, ONE)
    problem = Problem(truth.log_prior, truth.log_likelihood, 1.0)
    constant = truth.log_z.item() + above
    log_q = squared_residual(problem, constant, truth.log_guide(sampler))
    goal = Target(lambda prompts, response: torch.zeros(response.shape[:-1]))
    guide = posterior_guide(goal, ONE)  # any guide, whose tables are now those of log_q
    put(guide, truth, log_q)
    make = partial(choice, "prior", constant, 2)
    assert mean_gradient(make, model, guide, ONE, 2, proposal=sampler).norm() < 1e-9
    kl = (log_q.exp() * (log_q - truth.log_posterior)).sum().item()
    assert kl < 1e-10 if above == 0 else kl > 1e-9


def put(guide: Table, truth: Enumeration, log_q: torch.Tensor) -> None:
    """Make the table a given distribution `[S, 1]` for the prompt ONE."""
    prob = log_q[:, 0].exp()
    first = truth.support[:, 0, 0]
    with torch.no_grad():
        guide.first[1] = torch.stack([prob[first == word].sum() for word in range(3)]).log()
        for word in (1, 2):
            rows = first == word
            guide.then[1, word, truth.support[rows, 0, 1]] = prob[rows].log()
    assert_close(truth.log_guide(guide), log_q, rtol=0, atol=1e-9)


def test_constant_far_above_log_z_has_no_target():
    truth = Enumeration(Target(), ONE)
    problem = Problem(truth.log_prior, truth.log_likelihood, 1.0)
    with pytest.raises(NoFixedPointError, match=r"exceeds log Z by 3 nats"):
        squared_residual(problem, truth.log_z.item() + 3)


def test_learned_constant_starts_at_the_first_mean_and_follows_the_later_ones():
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    log_weight = (truth.log_joint - truth.log_guide(guide))[:, 0]
    objective = SquaredResidual(2, log_z="learned", rate=0.25)
    constants = []
    for rows in ([0, 3], [1, 2], [4, 6]):
        loss, _ = gradient(objective, model, guide, ONE, truth.support[rows])
        if constants:
            residual = log_weight[rows] - constants[-1]
            assert loss == pytest.approx(0.5 * residual.square().mean().item(), rel=1e-9)
        mean = log_weight[rows].mean().item()
        old = constants[-1] if constants else mean
        constants.append(old + 0.25 * (mean - old))
        (value,) = objective.learned.values()
        assert value.item() == pytest.approx(constants[-1], rel=1e-9)
    other = SquaredResidual(2, log_z="learned")
    other.set_state(objective.get_state())
    assert other.learned == objective.learned


def test_residuals_of_pairs_are_differences_of_neighbours():
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    log_weight = (truth.log_joint - truth.log_guide(guide))[:3, 0]
    loss, _ = gradient(SquaredResidual(3, log_z="pairs"), model, guide, ONE, truth.support[:3])
    a, b, c = log_weight.tolist()
    squares = [(a - b) ** 2, (b - c) ** 2, (c - a) ** 2]
    assert loss == pytest.approx(sum(squares) / 3 / 4, rel=1e-9)


def test_log_z_of_a_quantile_is_the_formula():
    for beta in (0.05, 0.3, 2.0):
        assert log_z_of_quantile(beta) == pytest.approx(math.log(beta * math.expm1(1 / beta)))
    assert math.isfinite(log_z_of_quantile(1e-4))
    objective = SquaredResidual(7, log_z="quantile", num_prior_draws=64)
    response = Enumeration(Target(), ONE).support
    loss, _ = gradient(objective, Target(), Table(1), ONE, response)
    residual = objective.draws[0].log_weight - log_z_of_quantile(objective.quantile_beta)
    assert loss == pytest.approx(0.5 * residual.square().mean().item())


@pytest.mark.parametrize("log_z", ["batch", "pairs", "learned"])
def test_the_clip_drops_responses_that_have_moved_along_their_gradient(log_z):
    """Second step on a batch, against the gradient of each response by autograd."""
    model, old, new, clip = Target(), Table(1), Table(6), 0.3
    truth = Enumeration(model, ONE)
    response, replayed = truth.support[:5], truth.support[4:7]
    gradients = {}
    for limit in (None, clip):
        objective = SquaredResidual(5, log_z=log_z, replay=3, epochs=2, clip=limit)
        objective.buffer.draw = lambda prompts, num: (replayed, truth.log_joint[4:7])
        first = gradient(objective, model, old, ONE, response)[1]
        gradients[limit] = first, gradient(objective, model, new, ONE, response)[1]
    assert torch.equal(gradients[None][0], gradients[clip][0])  # nothing has moved yet
    make = partial(SquaredResidual, 5, log_z=log_z, exploration_kl=0.3)
    bolder = [gradient(make(clip=limit), model, old, ONE, response)[1] for limit in (None, 1e-9)]
    assert torch.equal(*bolder)  # nor from the guide, though the draws are not the guide's
    constant = SquaredResidual(5, log_z=log_z, replay=3)
    log_guide = log_guide_at(new, ONE, torch.cat([response, replayed]))
    log_joint = torch.cat([truth.log_joint[:5], truth.log_joint[4:7]])
    if log_z == "learned":
        both = log_joint - log_guide_at(old, ONE, torch.cat([response, replayed]))
        constant.learned = {ONE.names()[0]: both.mean().detach()}
    residual = constant.log_z.residual(constant, ONE, log_joint - log_guide)
    (by_response,) = torch.autograd.grad(
        0.5 * residual.square().mean(), log_guide, create_graph=False
    )
    change = (log_guide[:5] - log_guide_at(old, ONE, response)).detach()
    dropped = (change.abs() > clip) & (change * by_response[:5] < 0)
    assert 0 < dropped.sum() < 5
    stays = torch.cat([~dropped, torch.ones(3, 1, dtype=torch.bool)])
    log_guide = log_guide_at(new, ONE, torch.cat([response, replayed]))
    expected = autograd((by_response * stays * log_guide).sum(), new)
    assert torch.allclose(gradients[clip][1], expected, rtol=1e-9, atol=1e-12)

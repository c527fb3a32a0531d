"""Descent on the exact KL: the optimum of a family against theory and enumeration."""

import math
from functools import partial

import pytest
import torch

from experiments.guide_zoo.family_optimum import descend, exact_kl, family_optimum
from experiments.guide_zoo.modes import NAMES
from experiments.guide_zoo.runs import MEASURE, NO_GAP
from experiments.shared.worlds import MODES

DIRECTIONS = ("reverse", "forward")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_optimum_of_tables_is_the_posterior(world, make, direction):
    """The KL is below the promise of the descent; the KL bounds total variation (Pinsker)."""
    best = family_optimum(world.truth, partial(make, "tabular"), direction)
    assert abs(best.kl) < NO_GAP
    assert world.truth.total_variation(best.guide).mean() <= math.sqrt(abs(best.kl) / 2) + 1e-7


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_exact_kl_is_that_of_the_enumeration_and_has_its_gradient(world, make, direction):
    guide = make("mean-field")
    with torch.no_grad():
        guide.logits.normal_()
    kl = exact_kl(world.truth, guide, direction)
    name = MEASURE[direction]
    assert kl.item() == pytest.approx(getattr(world.truth, name)(guide).item(), rel=1e-12)
    if direction == "reverse":
        (gradient,) = torch.autograd.grad(kl, [guide.logits])
        assert torch.allclose(gradient, -world.truth.elbo_gradient(guide)["logits"], atol=1e-10)


def test_forward_optimum_of_mean_field_is_the_marginals_of_responses_still_running(world, make):
    """KL(p* || q) is a constant minus sum_t sum_v P*(running at t, x_t = v) log q_t(v)."""
    optimum = family_optimum(world.truth, partial(make, "mean-field"), "forward")
    support, p = world.truth.support[:, 0], world.truth.log_posterior[:, 0].exp()
    running = world.model.prior.space.is_token(support)
    marginals = torch.zeros(2, world.model.prior.vocab_size, dtype=torch.float64)
    for t in range(2):
        marginals[t].index_add_(0, support[:, t], p * running[:, t])
    marginals /= marginals.sum(-1, keepdim=True)
    assert torch.allclose(optimum.guide.logits[0].softmax(-1), marginals, atol=1e-4)
    best = make("mean-field")
    with torch.no_grad():
        best.logits.copy_(marginals.log()[None])
    assert optimum.kl == pytest.approx(world.truth.kl_posterior_guide(best).item(), abs=1e-7)


def test_reverse_optimum_of_mean_field_is_stationary_and_the_best_of_its_modes(world, make):
    best = family_optimum(world.truth, partial(make, "mean-field"), "reverse", num_starts=6)
    assert best.grad_norm < 1e-4
    assert best.kl == min(best.kl_of_starts)
    assert max(best.kl_of_starts) > best.kl + 0.3  # the lighter mode is a local optimum
    q = world.truth.log_guide(best.guide)[:, 0].exp()
    heavy, light = ((world.truth.support[:, 0] == word).all(-1) for word in MODES)
    assert q[heavy] > 0.9 > 0.1 > q[light]


def test_no_family_is_better_than_the_posterior_and_more_of_it_is_no_worse(world, make):
    for direction in DIRECTIONS:
        one, two = (
            family_optimum(world.truth, partial(make, name), direction, max_iter=100).kl
            for name in NAMES
        )
        assert 0 < two < one


def test_descent_trains_what_the_guide_trains_and_leaves_no_gradients(world, make):
    guide = make("last-layers")
    before = {name: parameter.detach().clone() for name, parameter in guide.named_parameters()}
    descend(world.truth, guide, "reverse", 3)
    for name, parameter in guide.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
        assert parameter.grad is None, name

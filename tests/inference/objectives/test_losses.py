"""The loss that each objective returns, and its other metrics; other tests look at gradients."""

import math

import pyro
import pytest
import torch

from inference import (
    DIVERGENCES,
    OBJECTIVES,
    Enumeration,
    FDivergence,
    RewardToGo_ELBO,
    SquaredResidual,
    log_guide_at,
)
from inference.objectives import MaxAtK_ELBO, Proximal_ELBO
from inference.objectives.f_divergence import alpha_divergence
from inference.objectives.leave_one_out import leave_one_out
from inference.objectives.parts.draws import matrices
from inference.objectives.parts.off_policy import tempered
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.svi.step_numbers import effective_share
from tests.inference.objectives.table import ONE, TWO, Table, Target, autograd, gradient
from tests.inference.objectives.test_matrix import exact_loss, proposal_state
from tests.inference.objectives.uses import OURS

NUM = 2_000
COUPLED = {"dapo", "gdpo", "reinforce++", "gauss-newton"}
"""Objectives with a number of all prompts; and with random draws besides those of the guide."""
COUPLED |= {"a-star-po", "best-of-n-distillation", "qrpo", "trajectory-balance"}


def in_proportion(log_law):
    """Responses of a world with frequencies equal to the probabilities, `[K, 1, T]`."""
    counts = (log_law[:, 0].exp() * NUM).round().long()
    return Enumeration(Target(), ONE).support.repeat_interleave(counts, 0)


@pytest.mark.parametrize(
    "name",
    [
        "leave-one-out",
        "reward-to-go",
        "analytic-kl",
        "proximal",
        "wake-phi",
        "log-variance",
        "contrastive-twist",
        "max-at-k",
    ],
)
def test_a_loss_is_the_quantity_that_is_descended(name):
    """Draws with frequencies q: minus the ELBO, minus log Z, half a variance, a divergence."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    response = in_proportion(truth.log_guide(guide))
    loss, _ = gradient(OBJECTIVES[name](num_particles=len(response)), model, guide, ONE, response)
    log_guide = truth.log_guide(guide)
    q, log_weight = log_guide.exp(), truth.log_joint - log_guide
    elbo = truth.elbo(guide).item()
    expected = {
        "wake-phi": -truth.log_z.item(),
        "log-variance": 0.5 * (q * (log_weight - elbo).square()).sum().item(),
        "contrastive-twist": None,
        "max-at-k": None,
    }.get(name, -elbo)
    if expected is None:
        expected = exact_loss(name, model, guide, ONE, None).item()
    assert loss == pytest.approx(expected, abs=5e-3)


def test_the_best_of_one_draw_is_leave_one_out():
    model, guide = Target(), Table(1)
    response = guide.distribution(TWO).sample((6,))
    numbers = [
        gradient(objective, model, guide, TWO, response)
        for objective in (MaxAtK_ELBO(6, k=1), OBJECTIVES["leave-one-out"](num_particles=6))
    ]
    for one, other in zip(*numbers, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.parametrize("name", ["multi-sample", "best-of-n-distillation"])
def test_the_mean_loss_over_all_pairs_of_draws_is_exact(name):
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    q, total = truth.log_guide(guide).exp()[:, 0], 0.0
    for i in range(len(q)):
        for j in range(len(q)):
            pyro.set_rng_seed(3)  # best-of-n draws from the prior
            pair = truth.support[[i, j]]
            loss, _ = gradient(OBJECTIVES[name](num_particles=2), model, guide, ONE, pair)
            total += q[i] * q[j] * loss
    assert total.item() == pytest.approx(exact_loss(name, model, guide, ONE, 2).item(), rel=1e-9)


def test_losses_are_summed_over_prompts_and_metrics_averaged():
    """Draws for one prompt, then for the other, then for both."""
    model, guide = Target(), Table(1)
    response = guide.distribution(TWO).sample((6,))
    for name in ("leave-one-out", "log-variance", "wake-phi", "multi-sample", "analytic-kl"):
        actual = []
        for part in ([0], [1], [0, 1]):
            objective = OBJECTIVES[name](num_particles=6)
            loss, _ = gradient(objective, model, guide, TWO[part], response[:, part])
            actual.append((loss, getattr(objective, "metrics", {}).get("elbo")))
        (one, elbo_one), (other, elbo_other), (both, elbo_both) = actual
        assert both == pytest.approx(one + other, rel=1e-9), name
        if elbo_both is not None:
            assert elbo_both == pytest.approx((elbo_one + elbo_other) / 2, rel=1e-9), name


def test_bolder_draws_are_weighed_back_to_the_guide():
    """Self-normalised ELBO from draws of the bolder distribution; plain means differ."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    bolder = tempered(guide.distribution(ONE), 3.0).log_prob(truth.support).detach()
    response = in_proportion(bolder)
    objective = SquaredResidual(len(response), exploration_kl=1.0)
    objective.exploration.temperature = 3.0
    gradient(objective, model, guide, ONE, response)
    assert objective.metrics["elbo"] == pytest.approx(truth.elbo(guide).item(), abs=1e-2)
    reward = truth.expected_log_likelihood(guide).item()
    assert objective.metrics["log_likelihood"] == pytest.approx(reward, abs=1e-2)
    plain = (bolder.exp() * (truth.log_joint - truth.log_guide(guide))).sum().item()
    assert abs(plain - truth.elbo(guide).item()) > 0.05


def test_replayed_responses_come_with_their_own_densities():
    """The loss is half the variance over fresh and replayed responses together."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    fresh, old = truth.support[:2], truth.support[3:6]
    objective = SquaredResidual(2, replay=3)
    log_weight = (truth.log_joint - truth.log_guide(guide))[:, 0]
    objective.buffer.draw = lambda prompts, num: (old[:num], truth.log_joint[3:6])
    loss, _ = gradient(objective, model, guide, ONE, fresh)
    both = torch.cat([log_weight[:2], log_weight[3:6]])
    assert loss == pytest.approx(0.5 * both.var().item(), rel=1e-9)
    assert objective.metrics["elbo"] == pytest.approx(log_weight[:2].mean().item(), rel=1e-9)
    (memory,) = objective.buffer.memory.values()
    assert memory.response.tolist() == fresh[:, 0].tolist()


def test_later_steps_on_a_batch_descend_the_variance_at_the_current_guide():
    """Half the variance over the batch and other replayed responses; nothing is drawn or scored."""
    model, old, new = Target(), Table(1), Table(2)
    truth = Enumeration(model, TWO)
    fresh, replayed = truth.support[:2], [truth.support[3:6], truth.support[4:7]]
    objective = SquaredResidual(2, replay=3, exploration_kl=0.1, epochs=2)
    densities = iter([truth.log_joint[3:6], truth.log_joint[4:7]])
    objective.buffer.draw = lambda prompts, num: (replayed.pop(0), next(densities))
    gradient(objective, model, old, TWO, fresh)
    memory = dict(objective.buffer.memory)
    log_weight = truth.log_joint - log_guide_at(new, TWO, truth.support)
    loss = 0.5 * log_weight[[0, 1, 4, 5, 6]].var(0).sum()
    model.prior = None  # nothing is scored
    # the draws and the prompts that are passed now are ignored
    value, actual = gradient(objective, model, new, TWO[[1]], truth.support[6:8, 1:])
    assert value == pytest.approx(loss.item(), rel=1e-9)
    assert torch.allclose(actual, autograd(loss, new), rtol=1e-9, atol=1e-12)
    assert objective.buffer.memory == memory


def test_metrics_of_steps_on_the_draws_of_another_guide_are_those_of_this_one():
    """ELBO by importance weights: the adaptive forward KL, the second step on a batch."""
    model, old, new = Target(), Table(1), Table(2)
    truth = Enumeration(model, ONE)
    response = in_proportion(truth.log_guide(old))
    adaptive = FDivergence("forward-kl", len(response), adapt_every=5)
    adaptive.set_state(proposal_state(old) | {"gain": torch.tensor(0.0), "steps": torch.tensor(1)})
    repeated = Proximal_ELBO(len(response), epochs=2), SquaredResidual(len(response), epochs=2)
    for objective in repeated:
        gradient(objective, model, old, ONE, response)
    for objective in (*repeated, adaptive):
        loss, _ = gradient(objective, model, new, ONE, response)
        assert objective.metrics["elbo"] == pytest.approx(truth.elbo(new).item(), abs=0.02)
        reward = truth.expected_log_likelihood(new).item()
        assert objective.metrics["log_likelihood"] == pytest.approx(reward, abs=0.02)
    assert loss == pytest.approx(truth.kl_posterior_guide(new).item(), abs=0.02)  # of `adaptive`
    assert adaptive.metrics["log_z"] == pytest.approx(truth.log_z.item(), abs=5e-3)


@pytest.mark.parametrize("name", sorted({*OURS} - COUPLED))
def test_loss_and_gradient_add_up_over_prompts(name):
    response = Table(1).distribution(TWO).sample((6,))
    numbers = [
        gradient(OBJECTIVES[name](num_particles=6), Target(), Table(1), TWO[n], response[:, n])
        for n in ([0, 1], [0], [1])
    ]
    for of_both, *of_each in zip(*numbers, strict=True):
        torch.testing.assert_close(torch.as_tensor(of_both), sum(map(torch.as_tensor, of_each)))


def test_functions_of_a_divergence_are_of_each_response_and_may_change_their_argument():
    response = Enumeration(Target(), ONE).support
    expected = gradient(FDivergence("forward-kl", 91), Target(), Table(1), ONE, response)
    entry = DIVERGENCES["forward-kl"]
    in_place = entry._replace(slope=lambda log_u: log_u.exp_().neg_())
    same = gradient(FDivergence(in_place, 91), Target(), Table(1), ONE, response)
    torch.testing.assert_close(same, expected)
    for name in ("slope", "value"):
        for of_one in (lambda log_u: log_u[:1], lambda log_u: None):
            objective = FDivergence(entry._replace(**{name: of_one}), 91)
            with pytest.raises((TypeError, ValueError), match=f"^what {name} returned"):
                gradient(objective, Target(), Table(1), ONE, response)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("seed", range(3))
def test_a_response_of_an_earlier_guide_that_this_one_excludes_has_no_weight(name, seed):
    """The gradient is that of a rare response where it vanishes with q: f'(0) q is 0, not p*."""
    model, old = Target(seed=seed), Table(seed + 1)
    response, numbers = Enumeration(model, ONE).support, []
    for log_prob in (-60.0, -math.inf):
        guide = Table(seed + 2)
        with torch.no_grad():
            guide.first[:, 2] = log_prob
        objective = FDivergence(name, len(response), adapt_every=5)
        state = proposal_state(old) | {"gain": torch.tensor(0.0), "steps": torch.tensor(1)}
        objective.set_state(state)
        loss, grad = gradient(objective, model, guide, ONE, response)
        share = effective_share(matrices(objective.draws), objective.weight_power)
        numbers.append(torch.tensor([*objective.metrics.values(), share, *grad]))
    assert math.isfinite(loss)
    assert numbers[1].isfinite().all()
    assert (share < 1) == (objective.weight_power != 0)
    assert objective._gain == -math.inf  # KL(p* || q) is infinite
    if name not in ("forward-kl", "chi2-forward", "alpha"):
        torch.testing.assert_close(*numbers, rtol=1e-9, atol=1e-9)


def test_a_guide_without_numbers_has_a_loss_that_says_so():
    """A prompt without a possible draw is left out, and one with NaN is not."""
    guide, response = Table(1), Enumeration(Target(), ONE).support
    with torch.no_grad():
        guide.first.fill_(torch.nan)
    for name in ("wake-phi", "contrastive-twist"):
        objective = OBJECTIVES[name](num_particles=len(response))
        assert math.isnan(gradient(objective, Target(), guide, ONE, response)[0]), name


@pytest.mark.parametrize(("alpha", "name"), [(2, "chi2-forward"), (-1, "chi2-reverse")])
def test_chi_square_is_twice_an_alpha_divergence(alpha, name):
    chi_square, half = DIVERGENCES[name], alpha_divergence(alpha)
    assert chi_square[2:] == half[2:]
    log_u = torch.linspace(-2, 2, 5)
    of_chi, of_half = (each.slope(log_u) - each.slope(log_u[2]) for each in (chi_square, half))
    assert torch.allclose(of_chi, 2 * of_half)


def test_a_value_function_descends_half_the_squared_error():
    """Gradient on given draws without padding, against autograd of the definition."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    response = truth.support
    objective = RewardToGo_ELBO(len(response), baseline="value")
    gradient(objective, model, guide, ONE, response)
    parameters = list(objective.value.parameters())
    actual = torch.cat([parameter.grad.flatten() for parameter in parameters])
    per_token, hidden = guide.distribution(ONE).log_prob_and_hidden(response)
    prior = model.prior.distribution(ONE).log_prob_per_token(response)
    ratio, is_token = (prior - per_token).detach(), guide.distribution(ONE).space.is_token(response)
    to_go = truth.log_likelihood[..., None] + ratio.flip(-1).cumsum(-1).flip(-1)
    error = (to_go - objective.value(hidden.detach())) * is_token
    exact = torch.autograd.grad(0.5 * error.square().sum(-1).mean(0).sum(), parameters)
    expected = torch.cat([part.flatten() for part in exact])
    assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-12)
    assert actual.norm() > 1e-3


class Own(ResponseObjective):
    """An objective of a user, with a fault in its result."""

    def __init__(self, fault):
        super().__init__(4)
        self.fault = fault

    def losses(self, model, guide, prompts):
        distribution, response = self.draw(guide, prompts)
        log_guide, joint = distribution.log_prob(response), self.score(model, prompts, response)
        log_weight = joint.log_joint - log_guide.detach()
        loss = -(leave_one_out(log_weight) * log_guide).mean(0).sum()
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return self.fault(Losses(loss.detach(), loss, *draws))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (lambda losses: losses, None, ""),
        (lambda losses: losses.surrogate, TypeError, r"result of Own\.losses .* expected a Losses"),
        (
            lambda losses: losses._replace(log_guide=losses.log_guide.sum(0)),
            ValueError,
            r"Own\.losses returned log_guide of shape \(2,\), expected \(4, 2\) for responses",
        ),
        (
            lambda losses: losses._replace(elbo=losses.log_weight.mean(0)),
            ValueError,
            r"Own\.losses returned elbo of shape \(2,\), expected \(\)",
        ),
    ],
)
def test_a_result_of_other_shapes_is_refused_by_name(fault, error, message):
    """A log_guide of one number for each prompt would give steps a wrong size in silence."""
    objective = Own(fault)
    if error is None:
        assert objective.loss(Target(), Table(2), TWO) is not None
        return
    with pytest.raises(error, match=message):
        objective.loss(Target(), Table(2), TWO)


@pytest.mark.parametrize("name", OURS)
def test_differentiable_loss_has_the_same_value_gradient_and_metrics(name):
    """Use by Pyro's loops other than SVI."""
    model, guide, losses = Target(), Table(1), []
    for differentiable in (False, True):
        pyro.set_rng_seed(0)
        guide.zero_grad()
        objective = OBJECTIVES[name](num_particles=16)
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

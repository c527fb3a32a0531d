"""Numbers of particles: too few, or no number, are refused when the objective is built."""

import pytest
import torch

from inference import OBJECTIVES, Enumeration, RewardToGo_ELBO, log_guide_at
from tests.inference.objectives.table import ONE, Table, Target, autograd, gradient, mean_gradient


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_particle_is_enough_or_refused(name):
    """Once an objective has made a step, one particle has a gradient, unless it is replayed."""
    if OBJECTIVES[name].min_particles > 1:
        match = r"num_particles( \+ replay)? is 1, expected a whole number of at least [24]: "
        with pytest.raises(ValueError, match=match):
            OBJECTIVES[name](num_particles=1)
        return
    model, guide, objective = Target(), Table(1), OBJECTIVES[name](num_particles=1)
    epochs = getattr(objective, "epochs", 1)  # number of steps on each draw
    drawn = Enumeration(model, ONE).support[[1, 5, 3]].repeat_interleave(epochs, 0)  # [B, N, T]
    gradients = [gradient(objective, model, guide, ONE, response[None])[1] for response in drawn]
    assert torch.stack(gradients).isfinite().all()
    assert torch.stack(gradients[epochs:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["trace", "trace-graph", "reward-to-go-value"])
def test_mean_gradient_of_one_particle_is_the_elbos(name):
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    log_guide = log_guide_at(guide, ONE, truth.support)
    exact = autograd(-(log_guide.exp() * (truth.log_joint - log_guide)).sum(), guide)
    mean = mean_gradient(lambda: OBJECTIVES[name](num_particles=1), model, guide, ONE, 1)
    assert torch.allclose(mean, exact, rtol=1e-9, atol=1e-10)


def test_baselines_of_reward_to_go_need_different_numbers_of_particles():
    with pytest.raises(ValueError, match="the baselines `value`, `rollouts` and `none` take 1"):
        RewardToGo_ELBO(1)
    with pytest.raises(ValueError, match=r"gae_lambda is 0\.5, expected baseline='value'"):
        RewardToGo_ELBO(2, gae_lambda=0.5)
    with pytest.raises(ValueError, match=r"gae_alpha is 0\.5, expected baseline='value'"):
        RewardToGo_ELBO(2, gae_alpha=0.5)
    with pytest.raises(ValueError, match=r"gae_lambda is 0\.9 and gae_alpha is 0\.5: .* leave one"):
        RewardToGo_ELBO(1, "value", gae_lambda=0.9, gae_alpha=0.5)
    assert RewardToGo_ELBO(1, "none").num_particles == 1

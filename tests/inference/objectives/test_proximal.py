"""PPO's clipped surrogate: the gradient of each particle, and the particles without gradient."""

import pytest
import torch

from inference import Enumeration, log_guide_at
from inference.objectives import Proximal_ELBO
from tests.inference.objectives.table import ONE, TWO, Table, Target, gradient

CLIP = 0.3


def by_hand(ratio, log_weight, clip):
    """d surrogate / d log q(x_k), for one prompt: rho_k A_k, and 0 where the clip is active.

    Also returns the corners of the clip that the particles reach.
    """
    slopes, corners = [], set()
    for k, rho in enumerate(ratio):
        others = [j for j in range(len(ratio)) if j != k]
        baseline = sum(ratio[j] * log_weight[j] for j in others) / sum(ratio[j] for j in others)
        advantage = log_weight[k] - baseline
        too_good = rho > 1 + clip and advantage > 0  # already more likely, and to be made more so
        too_bad = rho < 1 - clip and advantage < 0
        slopes.append(0.0 if too_good or too_bad else rho * advantage)
        if not 1 - clip <= rho <= 1 + clip:
            corners.add((rho > 1, advantage > 0))
    return slopes, corners


@pytest.mark.parametrize("clip", [CLIP, None])
def test_the_clip_removes_the_gradient_of_far_particles_only(clip):
    """Both sides of the clip and both signs of the advantage.

    The baseline weighs the other particles by their ratios.
    """
    model, old, new = Target(), Table(1), Table(2)
    truth = Enumeration(model, TWO)
    objective = Proximal_ELBO(len(truth.support), clip=clip, epochs=2)
    gradient(objective, model, old, TWO, truth.support)  # draws every response once
    _, actual = gradient(objective, model, new, TWO, truth.support)

    log_new = log_guide_at(new, TWO, truth.support)  # [S, 2]
    ratio = (log_new - truth.log_guide(old)).exp().detach()
    log_weight = truth.log_joint - log_new.detach()
    pairs = zip(ratio.T.tolist(), log_weight.T.tolist(), strict=True)
    columns = [by_hand(*pair, CLIP if clip else 1e9) for pair in pairs]
    slopes = torch.tensor([slope for slope, _ in columns], dtype=torch.float64).T
    surrogate = -(slopes * log_new).mean(0).sum()
    parameters = list(new.parameters())
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(surrogate, parameters)])
    assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-12)
    if clip:
        met = set.union(*(corners for _, corners in columns))
        assert met == {(True, True), (True, False), (False, True), (False, False)}


def test_the_first_step_on_a_batch_knows_no_clip():
    model, guide = Target(), Table(1)
    response = guide.distribution(ONE).sample((6,))
    objectives = Proximal_ELBO(6, clip=1e-6), Proximal_ELBO(6, clip=None)
    clipped, free = (gradient(each, model, guide, ONE, response)[1] for each in objectives)
    assert torch.allclose(clipped, free, rtol=1e-9, atol=1e-12)
    assert clipped.norm() > 1e-3


def test_a_batch_serves_so_many_steps_and_no_more():
    """Loss of a step that draws: the loss of the drawn responses, also in later steps."""
    model, guide = Target(), Table(1)
    first, second = torch.tensor([[[1, 1]], [[2, 0]]]), torch.tensor([[[0, 0]], [[2, 2]]])
    objective = Proximal_ELBO(2, epochs=3)
    draws = first, second, second, second
    losses = [gradient(objective, model, guide, ONE, response)[0] for response in draws]
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])
    assert abs(losses[3] - losses[0]) > 1e-3

"""Bias and noise of the corrections against draws, and gradients against autograd."""

import pytest
import torch
from torch.testing import assert_close

from experiments.off_policy import (
    BIAS,
    CUT,
    FAR,
    NEAR,
    NOISE,
    RESPONSE,
    OffPolicy,
    corrections,
    judged,
    main,
    make_world,
    measured,
    tables_of,
)


def test_claim_holds_for_two_seeds(capsys):
    for seed in (0, 1):
        assert len(main(OffPolicy(seed=seed))) == 4
        assert "The claim held: 4 of 4 findings" in capsys.readouterr().out
    tables = tables_of(make_world(OffPolicy()), OffPolicy())
    assert tables.keys() == {NEAR, FAR, CUT}
    tables[FAR]["none"][BIAS] = tables[NEAR][RESPONSE][BIAS] = 0.005
    assert [finding.held for finding in judged(tables)] == [False, False, True, True]


def test_responses_are_a_tree_and_scores_are_gradients():
    world = make_world(OffPolicy())
    log_q = world.log_guide.sum(-1)
    assert_close(log_q.exp().sum(), torch.tensor(1.0).double())
    for log_a in world.log_samplers.values():
        assert_close(log_a.sum(-1).exp().sum(), torch.tensor(1.0).double())
    score = world.score.sum(1)  # E_q[score] = 0, of every token too
    assert (log_q.exp() @ score).abs().max() < 1e-12
    parts = torch.einsum("s,stp->tp", log_q.exp(), world.score)
    assert parts.abs().max() < 1e-12
    # grad log softmax is one-hot minus q: 1 - q_t at the token's own logit, which is the largest
    assert_close(world.score.amax(-1), 1 - world.log_guide.exp())
    assert world.score.sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("name", [NEAR, FAR])
def test_numbers_are_those_of_draws(name):
    world = make_world(OffPolicy())
    log_a, log_q = world.log_samplers[name], world.log_guide
    generator = torch.Generator().manual_seed(0)
    drawn = log_a.sum(-1).exp().multinomial(100_000, True, generator=generator)
    share = drawn.bincount(minlength=len(log_a)).double() / len(drawn)
    log_weight = world.log_joint - log_q.sum(-1)
    advantage = log_weight - log_a.sum(-1).exp() @ log_weight
    exact = torch.einsum("s,s,sp->p", log_q.sum(-1).exp(), log_weight, world.score.sum(1))
    for correction, weight in corrections(3.0).items():
        numbers = measured(world, log_a, weight, 64)
        weights = weight(log_q - log_a, advantage[:, None]) * advantage[:, None]
        each = torch.einsum("st,stp->sp", weights, world.score)
        mean = share @ each
        noise = (share @ (each - mean).square().sum(-1)).sqrt() / exact.norm()
        bias = (mean - exact).norm() / exact.norm()
        assert abs(bias - numbers[BIAS]) < 3 * noise / len(drawn) ** 0.5, correction
        assert noise.item() == pytest.approx(numbers[NOISE], rel=0.02), correction

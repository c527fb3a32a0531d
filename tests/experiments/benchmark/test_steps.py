"""The step of this project and the loop by hand do the same job. No speed is asserted."""

import pytest
import torch

from experiments.benchmark.steps import WORDS, Benchmark, ByHand, Ours
from model import ResponseDistribution

SMALL = Benchmark(rounds=2, warm_up=0, sequences=8, tokens=5)


def end_early(response: torch.Tensor) -> torch.Tensor:
    """The first response ends, and is padded, after its second token; the last with its last."""
    response[0, 2:], response[-1, -1] = 0, 0
    return response


@pytest.mark.parametrize(
    "change", [lambda response: response, end_early], ids=["full length", "some end"]
)
def test_ours_and_the_loop_by_hand_do_the_same_job(monkeypatch, change):
    ours, by_hand = Ours.of(SMALL), ByHand(SMALL)
    for module in (by_hand.guide, by_hand.prior, ours.svi.model.prior, ours.guide):
        module.double()
    mine = dict(ours.guide.language_model.network.named_parameters())
    theirs = dict(by_hand.guide.named_parameters())
    assert mine.keys() == theirs.keys()
    update = by_hand.update
    for seed in range(2):  # at the second step guide and prior differ
        torch.manual_seed(seed)
        response = change(by_hand.sample())
        assert response.shape == (SMALL.sequences, SMALL.tokens)
        with monkeypatch.context() as patched:
            patched.setattr(
                ResponseDistribution, "sample", lambda *_, response=response: response[:, None]
            )
            patched.setattr(by_hand, "sample", lambda response=response: response)
            patched.setattr(by_hand, "update", lambda: None)
            loss_by_hand = by_hand()
            loss = ours.svi.loss_and_grads(ours.svi.model, ours.svi.guide, ours.prompts)
        assert loss == pytest.approx(loss_by_hand, rel=1e-10)
        for name in theirs:
            torch.testing.assert_close(mine[name].grad, theirs[name].grad, rtol=1e-9, atol=1e-10)
        assert (
            sum(parameter.grad.square().sum() for parameter in theirs.values()) > 1.5
        )  # so that the norm is clipped
        update()
        ours.svi.optim(mine.values())
        for name in theirs:
            torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-8)


def test_no_response_ends_early():
    ours = Ours.of(SMALL)
    response = ours.guide.distribution(ours.prompts).sample((2000,))
    assert response.min() > 0
    assert response.unique().tolist() == list(range(1, WORDS))

"""A step waits for a GPU a bounded number of times, which does not grow with the responses."""

import pytest

from guides import LoRA
from inference import LeaveOneOut_ELBO, fit
from model import AlignmentModel, Prompts, TokenReward
from model.prior import cached_decoder, decode
from tests.model.prior.test_decode import Reads
from tests.model.tiny import NETWORKS, tiny

MOST = 5
"""Largest number of reads of a step of `fit`: the drawn tokens, the values of the reward, the loss
with all metrics, the norm of the gradient, and the size of the step with the check of all
parameters. Responses of more than `decode.INTERVAL` tokens have more reads in the draw."""


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cached_decoder, decode):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)


def reads_of_a_step(model: AlignmentModel, prompts: Prompts, num_particles: int) -> int:
    """Number of reads of the device by which a fit of three steps exceeds a fit of two."""
    counts = []
    for num_steps in (2, 3):
        guide, objective = LoRA(model.prior, rank=2), LeaveOneOut_ELBO(num_particles)
        with Reads() as reads:
            fit(model, guide, prompts, num_steps=num_steps, objective=objective, progress=False)
        counts.append(sum(reads.counts.values()))
    return counts[1] - counts[0]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("num_particles", [4, 40])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_of_a_fit_reads_few_values_of_tensors(network: str, num_particles: int) -> None:
    prior = tiny(network)
    reward = TokenReward(lambda response, _: (response % 2 == 0).float().mean(-1), prior)
    model = AlignmentModel(prior, reward, beta=1.0)
    assert reads_of_a_step(model, prior.encode(["a b", "b a"]), num_particles) <= MOST

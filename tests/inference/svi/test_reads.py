"""A step waits for a GPU a bounded number of times, which does not grow with the responses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from guides import LoRA
from inference import LeaveOneOut_ELBO, fit
from model import AlignmentModel, LanguageModel, Prompts, TokenReward
from model.prior import cached_decoder, decode
from tests import pretend_device
from tests.model.prior.test_decode import Reads
from tests.model.tiny import NETWORKS, tiny

MOST = 5
"""Largest number of reads of a step of `fit`: the drawn tokens, the values of the reward, the loss
with all metrics, the norm of the gradient, and the size of the step with the check of all
parameters. Responses of more than `decode.INTERVAL` tokens have more reads in the draw, and steps
that are shortened to the limit have more reads of the size."""

OF_PADDING = 8
"""Reads of the masks of padded prompts by `transformers`, two in each pass over several tokens."""

Counter = Callable[[Callable[[], Any]], int]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cached_decoder, decode):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)


def in_a_step(count: Counter, prior: LanguageModel, prompts: Prompts, num_particles: int) -> int:
    """Number of reads of the device by which a fit of three steps exceeds a fit of two."""
    reward = TokenReward(lambda response, _: (response % 2 == 0).float().mean(-1), prior)
    model, counts = AlignmentModel(prior, reward, beta=1.0), []
    for num_steps in (2, 3):
        guide, objective = LoRA(prior, rank=2), LeaveOneOut_ELBO(num_particles)
        options = {"num_steps": num_steps, "objective": objective, "progress": False}
        options |= {"step_kl": 1e3}  # no step is shortened
        counts.append(count(partial(fit, model, guide, prompts, **options)))
    return counts[1] - counts[0]


def by_operations(run: Callable[[], Any]) -> int:
    """Number of reads among the operations of torch, on any device."""
    with Reads() as reads:
        run()
    return sum(reads.counts.values())


def by_device(run: Callable[[], Any]) -> int:
    """Number of waits that the device itself has counted."""
    waits = torch.get_device_module(pretend_device.NAME).waits
    waits()
    run()
    return sum(waits().values())


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("num_particles", [4, 40])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_of_a_fit_reads_few_values_of_tensors(network: str, num_particles: int) -> None:
    prior = tiny(network)
    assert in_a_step(by_operations, prior, prior.encode(["a b", "b a"]), num_particles) <= MOST


@pytest.mark.parametrize("network", NETWORKS)
def test_a_device_counts_as_many_waits_and_some_for_masks_of_padding(network: str) -> None:
    prior = tiny(network)
    if prior.device.type != pretend_device.NAME:
        pytest.skip("waits are counted by `--device pretend`")
    assert in_a_step(by_device, prior, prior.encode(["a b", "b a"]), 4) <= MOST
    assert in_a_step(by_device, prior, prior.encode(["a b", "b"]), 4) <= MOST + OF_PADDING


@pytest.mark.parametrize("network", NETWORKS)
def test_a_recorded_step_does_not_wait_for_masks_of_padding(network: str) -> None:
    prior = tiny(network, compile_decode=True)
    if prior.device.type != pretend_device.NAME:
        pytest.skip("waits are counted by `--device pretend`")
    assert in_a_step(by_device, prior, prior.encode(["a b", "b"]), 4) <= MOST

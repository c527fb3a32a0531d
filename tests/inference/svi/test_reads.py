"""A step waits for a GPU a bounded number of times, which does not grow with the responses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from guides import LoRA, Twisted
from inference import OBJECTIVES, fit
from model import AlignmentModel, LanguageModel, Prompts, TextReward, TokenReward
from model.prior import cached_decoder, decode, decoder_check
from tests import pretend_device
from tests.inference.objectives.uses import ONE_OF_EACH_USE
from tests.model.prior.test_decode import Reads
from tests.model.tiny import NETWORKS, tiny

MOST = 5
"""Largest number of reads of a step of `fit`: the drawn tokens, the values of the reward, the loss
with all metrics, the norm of the gradient, and the size of the step with the check of all
parameters. Responses of more than `decode.INTERVAL` tokens have more reads in the draw, and steps
that are shortened to the limit have more reads of the size."""

BEYOND = {"leave-one-out": 0, "trace": 3, "reweighted-wake-sleep": 6}
BEYOND |= {"best-of-n-distillation": 2, "trajectory-balance": 3, "gauss-newton": 5}
BEYOND |= {"online-dpo": 3}
"""Further reads, where there is not one, of the sum of the factors, which a model in plain Pyro has
not checked. Pyro has checks of its own; the others have ranks, old responses, a solution, and the
likelihoods of both outcomes."""

Counter = Callable[[Callable[[], Any]], int]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cached_decoder, decode):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)


def in_a_step(
    count: Counter,
    prior: LanguageModel,
    prompts: Prompts,
    num_particles: int,
    objective: str = "leave-one-out",
    rewards: Any = None,
    **options: Any,
) -> float:
    """Number of reads of the device in a step: by how much a longer fit exceeds a fit."""
    reward = TokenReward(lambda response, _: (response % 2 == 0).float().mean(-1), prior)
    model, counts = AlignmentModel(prior, rewards or reward, beta=1.0), []
    entry, options = OBJECTIVES[objective], {"progress": False} | options
    options = {"step_kl": 1e3} | options  # no step is shortened
    num_steps = 1
    for times in (2, 3):
        torch.manual_seed(0)
        guide = Twisted(prior) if entry.needs_twist else LoRA(prior, rank=2)
        elbo = entry(num_particles=num_particles)
        num_steps = getattr(elbo, "epochs", 1)
        options |= {"num_steps": times * num_steps, "objective": elbo}
        new = prompts[: entry.max_prompts]  # whose names are not known yet
        counts.append(count(partial(fit, model, guide, new, **options)))
    return (counts[1] - counts[0]) / num_steps


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


def on_the_device(prior: LanguageModel) -> LanguageModel:
    """The model, if it is on the device that counts waits."""
    if prior.device.type != pretend_device.NAME:
        pytest.skip("waits are counted by `--device pretend`")
    return prior


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("num_particles", [4, 40])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_of_a_fit_reads_few_values_of_tensors(network: str, num_particles: int) -> None:
    prior = tiny(network)
    assert in_a_step(by_operations, prior, prior.encode(["a b", "b a"]), num_particles) <= MOST


@pytest.mark.parametrize("name", ONE_OF_EACH_USE)
def test_a_step_of_each_objective_waits_few_times(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = on_the_device(tiny())
    monkeypatch.setitem(decoder_check._NUM_DRAWS, Twisted, 8)  # the next check is at 16
    prompts = prior.encode(["a b", "b a"])
    assert in_a_step(by_device, prior, prompts, 4, name) <= MOST + BEYOND.get(name, 1)


def test_options_and_texts_add_few_waits() -> None:
    prior = on_the_device(tiny())
    waits = partial(in_a_step, by_device, prior, prior.encode(["a b", "b a", "c a", "a c"]), 4)
    assert waits(step_kl=None, learning_rate=1e-3, clip_norm=1.0) <= MOST
    assert waits(prompts_per_step=2) <= MOST + 1  # to choose the prompts
    assert waits(micro_batch=4) == waits(micro_batch=8) <= MOST + 8
    text = {name: TextReward(lambda texts: [len(t) for t in texts], prior) for name in "ab"}
    assert waits(rewards=text) <= MOST + 7  # ids, values, check, whether it applies


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_device_counts_as_many_waits_and_none_for_masks_of_padding(
    network: str, is_compiled: bool
) -> None:
    prior = on_the_device(tiny(network, compile_decode=is_compiled))
    for prompts in (["a b", "b a"], ["a b", "b"]):
        assert in_a_step(by_device, prior, prior.encode(prompts), 4) <= MOST

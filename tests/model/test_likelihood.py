"""Values of rewards and factors are checked where they enter the model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model import AlignmentModel, HardConstraintSupport, ImpossibleResponseError, LikelihoodError
from model.common.devices import accelerators, generator_state, seed_generator
from model.values import values_of
from tests.model.tiny import tiny


def run(value: object, kind: str = "reward") -> Tensor:
    """Run a model of two prompts with a reward or a factor, called `taste`, of a given value."""
    language_model, pieces = tiny(), {"taste": lambda *_: value}
    model = (
        AlignmentModel(language_model, pieces, beta=1.0)
        if kind == "reward"
        else AlignmentModel(language_model, {}, 1.0, pieces)
    )
    return model(language_model.encode(["a", "b"]))


@pytest.mark.parametrize("kind", ["reward", "factor"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (torch.tensor([0.0, torch.nan]), r"'taste' returned nan at index \(1,\)"),
        (torch.tensor([torch.inf, 0.0]), r"'taste' returned inf at index \(0,\)"),
        (torch.zeros(2, 1), r"'taste' returned shape \(2, 1\), expected .* \(2,\)"),
        (torch.zeros(()), r"'taste' returned shape \(\), expected .* \(2,\)"),
        ([0.0, 0.0], r"'taste' returned list, expected a tensor of shape \(2,\).*TextReward"),
        (None, r"'taste' returned NoneType"),
    ],
    ids=["nan", "+inf", "wrong shape", "a scalar", "a list", "nothing"],
)
def test_a_value_that_is_no_log_likelihood_is_refused_by_name(
    value: object, fault: str, kind: str
) -> None:
    with pytest.raises(LikelihoodError, match=f"{kind} {fault}"):
        run(value, kind)
    with pytest.raises(LikelihoodError, match=fault), HardConstraintSupport():
        run(value, kind)


@pytest.mark.parametrize("kind", ["reward", "factor"])
def test_minus_infinity_is_refused_unless_the_algorithm_supports_it(kind: str) -> None:
    value = torch.tensor([0.0, -torch.inf])
    with HardConstraintSupport():
        assert run(value, kind).shape == (2, 3)
    match = rf"{kind} 'taste' is -inf at index \(1,\).*finite penalty"
    with pytest.raises(ImpossibleResponseError, match=match):
        run(value, kind)


def test_any_finite_value_passes() -> None:
    assert run(torch.tensor([-1e30, 1e30])).shape == (2, 3)
    assert run(torch.tensor([1, 0])).shape == (2, 3)


@pytest.mark.parametrize("part", ["response", "ids", "mask"])
def test_a_reward_that_changes_its_arguments_is_refused(part):
    """The guide would be scored at other responses than its own."""
    prior = tiny()
    prompts = prior.encode(["a b", "c"])

    def reward(prompts, response):
        changed = response if part == "response" else getattr(prompts, part)
        changed[..., -1:] = changed[..., :1].clone()
        return torch.zeros(response.shape[:-1])

    model = AlignmentModel(prior, reward, beta=1.0)
    with pytest.raises(LikelihoodError, match=r"reward .* in place.*response\.clone"):
        model.reward(prompts, prior(prompts).sample((4,)))


@pytest.mark.on_cpu
def test_a_reward_that_changes_responses_through_numpy_is_refused():
    """An array shares the memory of a tensor, whose count of changes says nothing."""
    prior = tiny()
    prompts = prior.encode(["a b", "c"])

    def reward(prompts, response):
        ids = response.numpy()
        ids[..., 0] += 1
        return torch.zeros(response.shape[:-1])

    model = AlignmentModel(prior, reward, beta=1.0)
    with pytest.raises(LikelihoodError, match=r"reward .* in place.*response\.clone"):
        model.reward(prompts, torch.zeros(4, 2, prior.max_new_tokens, dtype=torch.long))


def seed_all(_: torch.device) -> None:
    torch.manual_seed(3)


def seed_own(device: torch.device) -> None:
    """Seed one device, as `torch.cuda.manual_seed` does."""
    seed_generator(device, 3)


@pytest.mark.on_cpu
@pytest.mark.skipif(not accelerators(), reason="a device apart from the CPU is needed")
def test_a_reward_that_seeds_another_device_than_that_of_the_responses_is_watched() -> None:
    (device, *_), prior, states = accelerators(), tiny(), []
    prompts = prior.encode(["a"])

    def seeding(_: object, response: Tensor) -> Tensor:
        seed_own(device)
        return torch.rand(response.shape[:-1], device=device).cpu()

    for seed in (0, 1):
        torch.manual_seed(seed)
        values_of("reward", seeding, prompts, prior(prompts).sample())
        states.append(generator_state(device))
    assert not torch.equal(*states)


@pytest.mark.parametrize("seed", [seed_all, seed_own])
def test_a_reward_that_seeds_the_generator_repeats_no_draws(
    seed: Callable[[torch.device], None],
) -> None:
    """Functions of users seed the generator from which responses are drawn."""
    prior = tiny()
    prompts = prior.encode(["a"] * 64)

    def seeding(_: object, response: Tensor) -> Tensor:
        seed(response.device)
        return torch.rand(response.shape[:-1], device=response.device)

    model = AlignmentModel(prior, seeding, beta=1.0)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        runs.append(torch.stack([model(prompts) for _ in range(4)]))
    assert torch.equal(*runs)
    assert len(runs[0].unique(dim=0)) == 4


@pytest.mark.parametrize("draws_on", ["no device", "cpu", "the device of the responses"])
def test_generators_of_which_a_reward_draws_nothing_are_left_as_they_are(draws_on: str) -> None:
    prior = tiny()
    prompts = prior.encode(["a"])
    response = prior(prompts).sample()
    drawn = {"no device": None, "cpu": torch.device("cpu")}.get(draws_on, response.device)

    def drawing(_: object, response: Tensor) -> Tensor:
        if drawn is not None:
            torch.rand((), device=drawn)
        return response.new_zeros(response.shape[:-1], dtype=torch.float64)

    devices = {torch.device("cpu"), response.device}
    before = {device: generator_state(device) for device in devices}
    values_of("reward", drawing, prompts, response)
    for device in devices:
        assert torch.equal(generator_state(device), before[device]) == (device != drawn)

"""Several processes: the gradient, the metrics and the fit of one process, for every objective."""

import itertools

import pyro
import pytest
import torch
from torch import Tensor

from guides import FineTuned
from inference import OBJECTIVES
from inference.objectives.self_play import SelfPlay
from inference.svi import budget
from inference.svi.checkpoint.folder import checkpoints
from model import AlignmentModel, Prompts
from model.common import ranks
from model.common.exchange import RankError
from model.prior.division import AXES, Axis
from tests.inference.conftest import quiet
from tests.inference.objectives.uses import ONE_OF_EACH_USE
from tests.inference.svi.step_gradients import World, gradients_of_steps, new_guide, world_of

pytestmark = pytest.mark.on_cpu  # as the processes of `group`


def reward(prompts: Prompts, response: Tensor) -> Tensor:
    """Different for each response and each prompt."""
    length = prompts.mask.sum(1)
    return length * 0.3 * (response == 3).sum(-1) - 0.1 * response[..., 0]


def world(dtype: torch.dtype) -> World:
    """A network without a part in float32, which GPT-2 is and Llama is not."""
    return world_of("gpt2", reward, dtype, max_new_tokens=5)


def gradients(
    name: str,
    dtype: torch.dtype = torch.float64,
    by: Axis = "particles",
    size: int | None = None,
    **options: float,
) -> list[Tensor]:
    return gradients_of_steps(world(dtype), name, 2, by=by, size=size, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in ONE_OF_EACH_USE), ("dapo", {"top_entropy_quantile": 0.3})],
)
def test_the_gradient_on_two_ranks_is_that_of_one_process(group, name, options):
    """On the same responses: the ranks draw the random numbers of one process."""
    double, single = (torch.float64, 1e-12), (torch.float32, 1e-6)
    for (dtype, tolerance), axes in ((double, AXES), (single, AXES[:1])):
        whole = gradients(name, dtype, **options)
        for by in axes:
            for of_rank in group.run(gradients, name, dtype, by, **options):
                for expected, gradient in zip(whole, of_rank, strict=True):
                    assert expected.norm() > 1e-3
                    assert (gradient - expected).norm() <= tolerance * expected.norm()


class Fallible:
    """The reward, which fails on one rank in one of its calls, or draws random numbers."""

    def __init__(self, fail_at: int | None = None, noise: float = 0.0) -> None:
        self.noise = noise
        # a private container that is empty on one side is no part of the fit's description
        self._calls_left = [] if fail_at is None else [fail_at]

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        self._calls_left = [number - 1 for number in self._calls_left]
        if self._calls_left == [0] and ranks.rank() == ranks.num_ranks() - 1:
            raise ArithmeticError("out of rewards")
        value = reward(prompts, response)
        return value + self.noise * torch.rand(value.shape) if self.noise else value


def trained(piece: Fallible, objective: str | SelfPlay = "leave-one-out", **options) -> tuple:
    """Parameters in one row, metrics, and the steps that `on_step` saw, of a fit."""
    prior, _, prompts = world(torch.float64)
    if isinstance(objective, str):
        guide = new_guide(OBJECTIVES[objective], prior, prompts)
        objective = OBJECTIVES[objective](num_particles=4)
    else:
        guide = FineTuned(prior)
    model, steps = AlignmentModel(prior, piece, beta=0.5), []
    settings = {"num_steps": 6, "objective": objective}
    settings |= {"prompts_per_step": 2, "on_step": lambda metrics: steps.append(metrics["step"])}
    result = quiet(model, guide, prompts, **settings | options)
    row = torch.cat([p.detach().flatten() for p in guide.parameters() if p.requires_grad])
    return row, result.metrics, steps


@pytest.mark.parametrize("by", AXES)
@pytest.mark.parametrize("objective", ["leave-one-out", "trajectory-balance"])
def test_a_fit_on_two_ranks_is_that_of_one_process(group, objective, by):
    row, metrics, _ = trained(Fallible(), objective)
    results = group.run(trained, Fallible(), objective, divide=by)
    for own_row, own_metrics, _ in results:
        assert torch.allclose(own_row, row, rtol=0, atol=1e-9)
        for expected, step in zip(metrics, own_metrics, strict=True):
            assert step == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True)
    assert torch.equal(results[0][0], results[1][0])
    assert [steps for _, _, steps in results] == [[1, 2, 3, 4, 5, 6], []]


def failed(piece: Fallible, **options) -> list[str]:
    """Message and notes of the error of a fit."""
    with pytest.raises((ArithmeticError, RankError)) as caught:
        trained(piece, **options)
    return [str(caught.value), *caught.value.__notes__]


def test_a_rank_that_fails_stops_all_and_any_number_of_ranks_resumes(group, tmp_path):
    options = {"checkpoint_folder": tmp_path, "checkpoint_every": 1}
    (other, _), (own, note) = group.run(failed, Fallible(fail_at=4), **options)
    assert own.startswith("out of rewards")
    assert other.startswith("rank 1 failed: ArithmeticError: out of rewards")
    assert "go on with resume=True" in note
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    row, metrics, _ = trained(Fallible(), resume=True, **options)
    assert [step["step"] for step in metrics] == [4, 5, 6]
    assert torch.allclose(row, trained(Fallible())[0], rtol=0, atol=1e-9)


def on_own_device(name: str, **options) -> None:
    piece = Fallible()
    piece.device = f"{name}:{ranks.rank()}"
    trained(piece, **options)


def test_a_reward_with_a_device_of_its_own_on_each_rank_is_resumed(group, tmp_path):
    for num_steps in (1, 2):
        options = {"checkpoint_folder": tmp_path, "num_steps": num_steps, "resume": num_steps > 1}
        group.run(on_own_device, "cuda", **options)
    with pytest.raises(AssertionError, match=r"is of a fit with 'cuda:0', got 'cpu:0' \("):
        group.run(on_own_device, "cpu", **options | {"num_steps": 3})


def timed() -> tuple[Tensor, int]:
    """Parameters and number of steps of a fit of 3 seconds, by a clock that each look moves.

    The clock of the second rank is ten times as fast.
    """
    clock, budget.perf_counter = (
        budget.perf_counter,
        itertools.count(step=1 + 9 * ranks.rank()).__next__,
    )
    try:
        row, metrics, _ = trained(Fallible(noise=1.0), num_steps=None, max_seconds=3)
    finally:
        budget.perf_counter = clock
    return row, len(metrics)


def test_ranks_agree_on_time_and_on_rewards_that_draw_random_numbers(group):
    (row, steps), (other, other_steps) = group.run(timed)
    assert steps == other_steps == 3
    assert torch.equal(row, other)


class Judge:
    """Random preferences of the rank's own pairs."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self._pairs = fails, []

    def __call__(self, prompts: Prompts, first: Tensor, second: Tensor) -> Tensor:
        if self.fails and ranks.rank() == 1:
            raise ArithmeticError("out of judgements")
        self._pairs.append(first[..., 0].numel())
        return torch.rand(first.shape[:-1])


def played() -> tuple[Tensor, int]:
    """Parameters of a fit by self-play, and the largest number of pairs of a step on this rank."""
    judge = Judge()
    row, *_ = trained(Fallible(), objective=SelfPlay(4, judge=judge))
    return row, max(judge._pairs)


def failed_play() -> list[str]:
    return failed(Fallible(), objective=SelfPlay(4, judge=Judge(fails=True)))


def test_ranks_divide_the_pairs_of_a_judge_that_draws_random_numbers(group):
    (row, number), (other, other_number) = group.run(played)
    assert torch.equal(row, other)
    assert number == other_number == 6  # half of 6 pairs of 4 responses to 2 prompts
    (text, *_), (own, *_) = group.run(failed_play)
    assert text.startswith("rank 1 failed: ArithmeticError: out of judgements")
    assert own == "out of judgements"


def noise(number: int) -> tuple[Tensor, Tensor]:
    """Numbers of a rank's own stream, and the next number of the common stream."""
    with ranks.own_stream():
        own = torch.rand(number)
    return own, torch.rand(1)


def test_the_own_streams_of_ranks_differ_and_leave_the_common_stream_alone(group):
    (first, after), (second, also_after) = group.run(noise, 3)
    assert not torch.equal(first, second)
    pyro.set_rng_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(after, also_after)


def test_an_own_stream_follows_the_generator_of_a_gpu(monkeypatch):
    """A fit on a GPU may leave the generator of the CPU as it is."""
    state = torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(ranks, "_accelerators", lambda: [0])
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    numbers = []
    for step in (0, 0, 1):
        pyro.set_rng_seed(0)
        state[0] = step
        numbers.append(noise(3)[0])
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def with_own_seed() -> str:
    """Message of the error of a fit whose seed is the number of the rank."""
    with pytest.raises(ValueError, match="expected the same on all ranks") as caught:
        trained(Fallible(), seed=ranks.rank())
    return str(caught.value)


def test_ranks_that_call_fit_differently_are_refused_by_name(group):
    first, second = group.run(with_own_seed)
    assert first.startswith("rank 1 calls `fit` with seed 1, and rank 0 with 0")
    assert second.startswith("rank 0 calls `fit` with seed 0, and rank 1 with 1")


def fit_alone() -> Tensor:
    """Parameters after a fit with a seed of this rank, without the other rank."""
    number = ranks.rank()
    with ranks.alone():
        return trained(Fallible(), seed=number)[0]


def test_a_fit_alone_does_not_wait_for_the_other_ranks(group):
    first, second = group.run(fit_alone)
    assert torch.equal(first, trained(Fallible(), seed=0)[0])
    assert torch.equal(second, trained(Fallible(), seed=1)[0])


def reductions(bucket: int) -> tuple[Tensor, int]:
    """Parameters after a fit of two steps, and the number of reductions of gradients."""
    calls, reduce, before = [], ranks.dist.all_reduce, ranks.BUCKET

    def counted(*args, **options):
        calls.append(args[0].numel())
        return reduce(*args, **options)

    ranks.dist.all_reduce, ranks.BUCKET = counted, bucket
    try:
        return trained(Fallible(), num_steps=2)[0], len(calls)
    finally:
        ranks.dist.all_reduce, ranks.BUCKET = reduce, before


def test_a_step_reduces_the_gradient_once_in_buckets(group):
    (row, number), _ = group.run(reductions, 1 << 25)
    assert number == 2  # of two steps
    (other, larger), _ = group.run(reductions, 1 << 13)
    assert number < larger < 40
    assert torch.equal(row, other)


def work_of_ranks() -> dict[bool, int]:
    """Number of responses that the guide of this rank reads, with and without gradient."""
    prior, model, prompts = world(torch.float64)
    guide, largest = FineTuned(prior), {True: 0, False: 0}

    def record(_, __, keywords):
        kind = torch.is_grad_enabled()
        largest[kind] = max(largest[kind], len(keywords["input_ids"]))

    guide.language_model.network.register_forward_pre_hook(record, with_kwargs=True)
    objective = OBJECTIVES["leave-one-out"](num_particles=4)
    quiet(model, guide, prompts, 1, objective=objective)
    return largest


def test_each_rank_draws_and_scores_its_own_responses(group):
    assert work_of_ranks() == {True: 12, False: 12}
    assert group.run(work_of_ranks) == [{True: 6, False: 6}] * 2

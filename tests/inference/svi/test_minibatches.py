"""Minibatches hold each prompt once in an epoch, in an order by the seed, with little padding."""

import math
import random

import pytest
import torch

from inference.svi.minibatches import Minibatches
from model import Prompts


def prompts_of(lengths: list[int]) -> Prompts:
    """Prompts of these numbers of tokens."""
    return Prompts.from_ids([[1] * length for length in lengths], [str(n) for n in lengths])


@pytest.mark.parametrize(("num_prompts", "size"), [(1, 1), (7, 1), (10, 3), (10, 9), (200, 3)])
def test_each_prompt_is_in_an_epoch_once_and_sizes_differ_by_one(num_prompts, size):
    minibatches = Minibatches(prompts_of([3] * num_prompts), size, seed=1)
    for number in range(3):
        batches = minibatches.epoch(number)
        assert sorted(row for rows in batches for row in rows) == list(range(num_prompts))
        sizes = {len(rows) for rows in batches}
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_prompts_after_some_prompts_are_a_function_of_seed_and_number_alone():
    prompts = prompts_of([random.Random(0).randint(1, 9) for _ in range(11)])
    steady, num_prompts, positions = Minibatches(prompts, 4, seed=0), 0, []
    while num_prompts < 33:
        batch = steady.after(num_prompts)
        assert batch.positions == Minibatches(prompts, 4, seed=0).after(num_prompts).positions
        positions += batch.positions
        num_prompts += len(batch)
    epochs = [positions[start : start + 11] for start in (0, 11, 22)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    orders = {tuple(Minibatches(prompts, 4, seed=seed).epoch(0)[0]) for seed in range(20)}
    assert len(orders) > 5


@pytest.mark.parametrize("size", [None, 3, 8])
def test_all_prompts_are_one_minibatch_if_they_fit(size):
    prompts = prompts_of([1, 2, 3])
    assert Minibatches(prompts, size, seed=0).after(12) is prompts


def test_padding_is_little_for_prompts_of_very_different_length():
    """The shares that the file states, for 2,000 prompts."""
    draws = random.Random(0)
    lengths = [int(math.exp(draws.uniform(math.log(5), math.log(2000)))) for _ in range(2000)]
    minibatches = Minibatches(prompts_of(lengths), 16, seed=0)
    batches = minibatches.epoch(0)
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in batches)
    assert padded < 1.15 * sum(lengths)
    firsts = torch.tensor([float(lengths[rows[0]]) for rows in batches])
    assert abs(torch.corrcoef(torch.stack([firsts[1:], firsts[:-1]]))[0, 1]) < 0.3

"""Self-BLEU against a sum by hand, and at 0 and 1."""

import math

import pytest
import torch

from inference.diagnostics.diversity import self_bleu


def of(*rows, n):
    """Responses to one prompt, padded with 0."""
    longest = max(map(len, rows))
    response = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])[:, None]
    is_token = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])[:, None]
    return self_bleu(response, is_token, n)


def test_by_hand():
    """p1 and p2 of each row against the other two, and the brevity penalty of the shortest."""
    rows = [1, 2, 3, 4], [1, 2, 1, 2], [3, 4, 5]
    first = math.sqrt(4 / 4 * 2 / 3)  # 12 and 34 are found, 23 is not
    second = math.sqrt(2 / 4 * 1 / 3)  # 1, 2 and 12 once each, as often as the first row has them
    third = math.sqrt(2 / 3 * 1 / 2) * math.exp(1 - 4 / 3)
    assert of(*rows, n=2) == pytest.approx((first + second + third) / 3, abs=1e-12)


def test_a_run_that_nobody_shares_counts_as_a_tenth_of_a_match():
    assert of([1, 2], [2, 1], n=2) == pytest.approx(math.sqrt(0.1), abs=1e-12)


def test_a_response_too_short_for_a_run_counts_as_one_run_without_a_match():
    assert of([1], [1], n=2) == pytest.approx(math.sqrt(0.1), abs=1e-12)


def test_the_nearest_length_is_the_reference_and_of_two_the_shorter():
    nearest = math.exp(1 - 3 / 2)  # of 3 and 5
    assert of([1, 1], [1, 1, 1], [1, 1, 1, 1, 1], n=1) == pytest.approx(
        (nearest + 1 + 3 / 5) / 3, abs=1e-12
    )
    longer = math.exp(1 - 3), math.exp(1 - 4 / 3), 3 / 4  # of 1, 3 and 4 the nearest to 3 is 4
    assert of([1], [1] * 3, [1] * 4, n=1) == pytest.approx(sum(longer) / 3, abs=1e-12)
    assert of([1] * 3, [1] * 2, [1] * 4, n=1) == pytest.approx(
        (1 + math.exp(1 - 3 / 2) + 3 / 4) / 3, abs=1e-12
    )


def test_equal_responses_have_one_and_others_less():
    assert of([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], n=5) == pytest.approx(1, abs=1e-12)
    assert of([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], n=5) < 0.3


def test_prompts_are_apart():
    same, other = torch.tensor([[1, 2], [1, 2]]), torch.tensor([[1, 2], [3, 4]])
    response = torch.stack([same, other], 1)
    alone = [
        self_bleu(part[:, None], torch.ones_like(part[:, None], dtype=torch.bool), 2)
        for part in (same, other)
    ]
    assert self_bleu(response, torch.ones_like(response, dtype=torch.bool), 2) == pytest.approx(
        sum(alone) / 2, abs=1e-12
    )

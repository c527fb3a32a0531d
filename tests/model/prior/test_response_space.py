"""The response space: rows that are responses, and the number of responses."""

import itertools

import pytest
import torch

from model import NotEnumerableError, ResponseSpace

SPACES = {
    "pad is the end": ResponseSpace(3, 5, torch.tensor([0]), 0),
    "pad is a word": ResponseSpace(3, 5, torch.tensor([0]), 3),
    "several ends, pad is one": ResponseSpace(3, 5, torch.tensor([0, 4]), 4),
    "several ends, pad is a word": ResponseSpace(3, 5, torch.tensor([4, 0]), 2),
    "one token": ResponseSpace(1, 5, torch.tensor([0]), 3),
    "every id ends": ResponseSpace(2, 3, torch.tensor([0, 1, 2]), 0),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_responses_are_the_rows_with_nothing_but_padding_after_their_first_end(
    space: ResponseSpace,
) -> None:
    rows = list(itertools.product(range(space.vocab_size), repeat=space.max_new_tokens))
    ends = [
        next((t for t, token in enumerate(row) if token in space.end_ids), len(row)) for row in rows
    ]
    expected = [
        row for row, end in zip(rows, ends, strict=True) if set(row[end + 1 :]) <= {space.pad_id}
    ]
    assert sorted(map(tuple, space.enumerate().tolist())) == expected
    assert space.num_responses == len(expected)
    contained = space.contains(torch.tensor(rows)).tolist()
    assert [row for row, inside in zip(rows, contained, strict=True) if inside] == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([2, 3, 2], [True, True, True]),
        ([2, 0, 0], [True, True, False]),
        ([0, 0, 0], [True, False, False]),
        ([3, 4, 3], [True, True, False]),
        ([4, 0, 2], [True, False, False]),
    ],
)
def test_tokens_are_those_up_to_the_first_end(row: list[int], expected: list[bool]) -> None:
    space = ResponseSpace(max_new_tokens=3, vocab_size=5, end_ids=torch.tensor([0, 4]), pad_id=0)
    assert space.is_token(torch.tensor(row)).tolist() == expected
    assert space.is_token(torch.tensor([[row]])).tolist() == [[expected]]


def test_too_many_responses_are_refused_with_their_number() -> None:
    match = r"5 token ids and 11 positions make 5\.59e\+06 responses"
    with pytest.raises(NotEnumerableError, match=match):
        ResponseSpace(11, 5, torch.tensor([0]), 0).enumerate()

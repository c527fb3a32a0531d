"""Prompts are padded on the left and keep their texts."""

import pytest
import torch

from model import Prompts

ROWS, TEXTS = [[5], [1, 2, 3], [7, 8]], ["five", "one two three", "seven eight"]


@pytest.fixture
def prompts() -> Prompts:
    return Prompts.from_ids(ROWS, TEXTS)


def test_padding_is_on_the_left(prompts: Prompts) -> None:
    assert prompts.mask.tolist() == [[False, False, True], [True, True, True], [False, True, True]]
    assert [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)] == ROWS
    assert prompts.texts == tuple(TEXTS)
    assert len(prompts) == 3


@pytest.mark.parametrize(
    ("indices", "picked"),
    [
        ([0], [0]),
        ([2, 0], [2, 0]),
        ([1, 1], [1, 1]),
        ([-1], [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [2, 0]),
    ],
)
def test_indexing_is_like_padding_the_picked_prompts_alone(
    prompts: Prompts, indices: list[int] | slice, picked: list[int]
) -> None:
    got, expected = (
        prompts[indices],
        Prompts.from_ids([ROWS[i] for i in picked], [TEXTS[i] for i in picked]),
    )
    assert got.texts == expected.texts
    assert torch.equal(got.mask, expected.mask)
    assert torch.equal(got.ids * got.mask, expected.ids * expected.mask)


def test_moving_keeps_everything(prompts: Prompts) -> None:
    moved = prompts.to("cpu")
    assert moved.texts == prompts.texts
    assert torch.equal(moved.ids, prompts.ids)
    assert torch.equal(moved.mask, prompts.mask)


@pytest.mark.parametrize(("rows", "texts"), [([[1], []], ["a", ""]), ([[1]], ["a", "b"])])
def test_every_text_has_a_row_that_is_not_empty(rows: list[list[int]], texts: list[str]) -> None:
    with pytest.raises(ValueError, match="expected one each and none of them empty"):
        Prompts.from_ids(rows, texts)

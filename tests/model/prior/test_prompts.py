"""Prompts are padded on the left and keep their texts."""

from dataclasses import replace

import numpy as np
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
        (torch.tensor([2, 1]), [2, 1]),
        ([True, True, True], [0, 1, 2]),
        (np.array([False, False, True]), [2]),
    ],
)
def test_indexing_is_like_padding_the_picked_prompts_alone(
    prompts: Prompts, indices: list[int] | torch.Tensor | slice, picked: list[int]
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
    assert torch.equal(moved.ids, prompts.ids.cpu())
    assert torch.equal(moved.mask, prompts.mask.cpu())


@pytest.mark.parametrize(("rows", "texts"), [([[1], []], ["a", ""]), ([[1]], ["a", "b"])])
def test_every_text_has_a_row_that_is_not_empty(rows: list[list[int]], texts: list[str]) -> None:
    with pytest.raises(ValueError, match="expected one each and none of them empty"):
        Prompts.from_ids(rows, texts)


@pytest.fixture
def questions() -> Prompts:
    columns = {"answer": ["5", None, 7], "topic": [{"a": [1]}, {}, {"b": True}]}
    return Prompts.from_ids([[1, 2], [1, 2], [3]], ["one", "one", "two"], columns=columns)


def test_columns_and_positions_follow_the_prompts(questions: Prompts) -> None:
    part = questions[[2, 0]][[1, 0, 1]]
    assert part.columns["answer"] == ("5", 7, "5")
    assert part.columns["topic"] == ({"a": [1]}, {"b": True}, {"a": [1]})
    assert part.positions == (0, 2, 0)
    assert part.to("cpu").columns == part.columns


def test_equal_texts_are_two_prompts_and_a_prompt_keeps_its_name(questions: Prompts) -> None:
    names = questions.names()
    assert len(set(names)) == 3
    assert questions[[2, 1]].names() == [names[2], names[1]]
    other = Prompts.from_ids(questions.rows(), questions.texts, columns={"answer": ["6", None, 7]})
    assert not set(other.names()) & set(names)


def test_state_of_prompts_restores_them(questions: Prompts) -> None:
    chats = Prompts.from_ids(
        [[1], [2]], ["a", "b"], messages=(({"role": "user", "content": "x"},), None)
    )
    for prompts in (questions[[2, 0]], chats):
        restored = Prompts.from_state(prompts.get_state())
        assert restored.names() == prompts.names()
        for name in ("texts", "messages", "columns", "positions", "vocabulary"):
            assert getattr(restored, name) == getattr(prompts, name)
        assert torch.equal(restored.ids, prompts.ids)
        assert torch.equal(restored.mask, prompts.mask)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"answer": ["a", "b"]}, ValueError, "'answer' has 2 values for 3 prompts, expected one"),
        ({"answer": "abc"}, TypeError, "the column 'answer' is a str, expected a list of values"),
        ({"x": [1, 2, {3}]}, TypeError, r"the column 'x' of prompt 2 is \{3\} \(set\)"),
        ({"x": [1, 2, {"y": [b"z"]}]}, TypeError, "item 0 of 'y' of the column 'x' of prompt 2"),
        ({"x": ["a", "b", "\ud83d"]}, ValueError, "the column 'x' of prompt 2 has '.ud83d'"),
        ([1, 2, 3], TypeError, "columns is a list, expected a dict of lists"),
        ({1: [1, 2, 3]}, TypeError, "a column is named 1, expected a text"),
    ],
)
def test_columns_that_are_no_plain_data_are_refused_by_place(columns, error, message) -> None:
    with pytest.raises(error, match=message):
        Prompts.from_ids(ROWS, TEXTS, columns=columns)


def test_columns_of_numpy_are_plain_data() -> None:
    prompts = Prompts.from_ids(ROWS, TEXTS, columns={"x": np.arange(3), "y": np.eye(3)})
    assert prompts.columns == {"x": (0, 1, 2), "y": ([1, 0, 0], [0, 1, 0], [0, 0, 1])}
    assert type(prompts.columns["x"][0]) is int


def test_prompts_on_another_device_are_refused_by_name(prior, prompts):
    space = replace(prior.space, end_ids=prior.space.end_ids.to("meta"))
    with pytest.raises(ValueError, match="and the language model on meta, expected one device"):
        space.check(prompts)

"""Checks of arguments: the accepted numbers, and the text of the errors."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from inference.objectives.self_play import SelfPlay
from model import AlignmentModel, TextJudge, TokenReward, grammar_prior, vader_sentiment
from model.common.checks import (
    MOST,
    finite,
    function,
    one_of,
    positive,
    probability,
    seed,
    whole_number,
)
from tests.refusals import COUNT

NOT_POSITIVE = [10**400, 0, -1.0, math.nan, math.inf, True, "0.5", None, [0.5], np.float32(-1), 1j]


@pytest.mark.parametrize("value", [*COUNT, 3.0, np.float64(3), 1j])
def test_value_that_is_no_count_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^draws is .*, expected a whole number of at least 1"):
        whole_number("draws", value)


@pytest.mark.parametrize("value", [1, np.int64(1), np.uint8(1)], ids=str)
def test_counts_come_back_as_plain_ints(value: object) -> None:
    assert type(whole_number("draws", value)) is int


def test_error_of_a_count_names_the_range() -> None:
    match = r"^chunk is -1, expected a whole number of at least 0: 0 is none$"
    with pytest.raises(ValueError, match=match):
        whole_number("chunk", -1, at_least=0, why="0 is none")
    with pytest.raises(ValueError, match=r"at least 1 and at most 1,000,000,000$"):
        whole_number("chunk", MOST + 1)
    with pytest.raises(ValueError, match=r"at least 1 and at most 7$"):
        whole_number("chunk", 8, at_most=7)


@pytest.mark.parametrize("value", NOT_POSITIVE, ids=str)
def test_number_that_is_not_positive_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^beta is .*, expected a positive finite number$"):
        positive("beta", value)


@pytest.mark.parametrize("value", [0.5, 1, np.float16(0.5), Fraction(1, 2)], ids=str)
def test_numbers_come_back_as_plain_floats(value: object) -> None:
    assert type(positive("beta", value)) is float


def test_bounds_that_are_allowed_and_bounds_that_are_not() -> None:
    assert probability("share", 0) == 0
    assert probability("share", 1) == 1
    match = r"^share is 1.5, expected a finite number of at least 0 and of at most 1$"
    with pytest.raises(ValueError, match=match):
        probability("share", 1.5)
    match = r"^share is 1, expected a finite number above -1 and below 1: no room$"
    with pytest.raises(ValueError, match=match):
        finite("share", 1, above=-1, below=1, why="no room")


def test_seeds_are_those_of_numpy() -> None:
    assert seed("seed", 2**32 - 1) == 2**32 - 1
    for value in (-1, 2**32, None, 0.5):
        with pytest.raises(ValueError, match=r"^seed is "):
            seed("seed", value)


def test_a_name_is_one_of_some() -> None:
    assert one_of("kind", "map", {"map": 1, "nuts": 2}) == "map"
    for value in ("mab", None, ["map"]):
        with pytest.raises(ValueError, match=r"^kind is .*, expected one of: map, nuts$"):
            one_of("kind", value, {"map": 1, "nuts": 2})


def test_a_function_takes_so_many_arguments() -> None:
    def of_texts(texts: list[str]) -> list[float]:
        return [0.0 for _ in texts]

    def flexible(prompts: object, *others: object, scale: float = 1.0) -> float:
        return scale

    class Callable:
        def __call__(self, prompts: object, response: object) -> None: ...

    own = Callable()
    assert function("reward", flexible, takes=2) is flexible
    assert function("reward", own, takes=2) is own
    assert function("reward", torch.nn.Identity(), takes=2)
    assert function("reward", of_texts) is of_texts, "unknown number of arguments"
    assert function("reward", max, takes=2) is max, "unknown parameters"
    for value in (of_texts, lambda a, b, c: a, lambda a, *, b: a):
        with pytest.raises(TypeError, match=r"^reward is .*\(.*\).*, expected a function of 2 "):
            function("reward", value, takes=2, why="prompts and responses")
    with pytest.raises(TypeError, match=r"^reward is the class Callable, expected a function of 2"):
        function("reward", Callable, takes=2)


def test_a_function_of_texts_is_refused_as_a_reward_with_the_fix() -> None:
    for arguments in ((vader_sentiment, 1.0), ({}, 1.0, {"mood": vader_sentiment})):
        with pytest.raises(TypeError, match=r"vader_sentiment\(texts.*TextReward\(f, prior\)"):
            AlignmentModel(grammar_prior(max_new_tokens=1), *arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f, prior: TextJudge(lambda a, b: f, prior), "function is .* of 3 arguments: prom"),
        (lambda f, prior: SelfPlay(8, judge=f), "judge is .* of 3 arguments.*`TextJudge`"),
        (lambda f, prior: TokenReward(f, prior), "function is .* of 2 arguments: token ids"),
    ],
)
def test_a_function_of_other_arguments_is_refused_where_it_is_passed(make, words) -> None:
    with pytest.raises(TypeError, match=words):
        make(lambda a: a, grammar_prior(max_new_tokens=1))

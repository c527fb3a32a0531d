"""Functions of texts and of tokens as rewards: each text scored once, errors with the text."""

import math
import re

import numpy as np
import pytest
import torch

from model import (
    AlignmentModel,
    HardConstraintSupport,
    LikelihoodError,
    Pattern,
    TextReward,
    TokenReward,
    vader_sentiment,
)
from tests.model.tiny import tiny

RESPONSE = torch.tensor(
    [[[2, 0, 0], [3, 3, 0]], [[2, 0, 0], [2, 0, 0]], [[4, 4, 4], [0, 0, 0]]]
)  # [K, N, T] = [3, 2, 3]


@pytest.fixture(scope="module")
def language_model():
    return tiny()


@pytest.fixture(scope="module")
def prompts(language_model):
    return language_model.encode(["a b", "c"])


def counted(seen):
    """Number of words of each text; the texts are appended to `seen`."""

    def length(texts):
        seen.extend(texts)
        return [len(text.split()) for text in texts]

    return length


def test_text_that_came_before_is_not_scored_again(language_model, prompts):
    seen = []
    reward = TextReward(counted(seen), language_model)
    first = reward(prompts, RESPONSE)
    assert torch.equal(reward(prompts, RESPONSE), first)
    assert len(seen) == 5
    assert reward(prompts, torch.tensor([[4, 0, 0], [3, 3, 0]])).tolist() == [3, 3]
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("factor", "difference"), [(1.0, 0.0), (1.001, 0.0), (1.5, 2.5), (-math.inf, math.inf)]
)
def test_a_function_that_does_not_repeat_itself_is_told_from_rounding(
    factor, difference, language_model, prompts
):
    """A second call multiplies the rewards, 2 to 5, by a factor. The first are remembered."""
    seen, calls = [], iter([1.0, factor])
    count = counted(seen)

    def function(texts):
        scale = next(calls)
        return [scale * number for number in count(texts)]

    reward = TextReward(function, language_model)
    first = reward(prompts, RESPONSE)
    assert reward.repeat_difference(prompts, RESPONSE) == difference
    assert torch.equal(reward(prompts, RESPONSE), first)
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("factor", "difference"), [(1.0, 0.0), (1.001, 0.0), (1.5, 1.5), (math.nan, 0.0)]
)
def test_noise_of_a_reward_of_token_ids_is_told_from_rounding(
    factor, difference, language_model, prompts
):
    factors = iter([1.0, factor])
    reward = TokenReward(lambda _, is_token: next(factors) * is_token.sum(-1), language_model)
    assert reward.repeat_difference(prompts, RESPONSE) == difference


def test_those_not_met_for_longest_are_forgotten(language_model, prompts):
    seen = []
    reward = TextReward(counted(seen), language_model, cache_size=2)
    a, b, c = (torch.tensor([[word, 0, 0]]) for word in (2, 3, 4))
    for response in (a, b, a, c, a, b):
        reward(prompts[[0]], response)
    assert seen == ["a b a", "a b b", "a b c", "a b b"]


def test_without_a_cache_each_call_scores_anew(language_model, prompts):
    seen = []
    reward = TextReward(counted(seen), language_model, cache_size=0)
    for _ in range(2):
        reward(prompts, RESPONSE)
    assert len(seen) == 10


def test_failure_names_the_reward_and_shows_the_text(language_model, prompts):
    def picky(texts):
        if any("c c" in text for text in texts):
            raise KeyError("no such word")
        return [0.0] * len(texts)

    match = "reward 'picky' failed on the text 'a b c c c': KeyError: 'no such word'"
    with pytest.raises(LikelihoodError, match=match):
        TextReward(picky, language_model)(prompts, RESPONSE)


def test_failure_of_the_batch_alone_says_so(language_model, prompts):
    def small(texts):
        if len(texts) > 1:
            raise MemoryError("out of memory")
        return [0.0]

    match = r"'small' failed on 5 texts together, on none .*Is the batch too large"
    with pytest.raises(LikelihoodError, match=match):
        TextReward(small, language_model)(prompts, RESPONSE)


def test_rewards_that_were_computed_before_a_failure_are_not_computed_again(
    language_model, prompts
):
    """A service that fails for a while: together, then at one text, then not at all."""
    seen, failures = [], iter([True, False, False, True])

    def service(texts):
        if next(failures, False):
            raise ConnectionError("too many requests")
        seen.extend(texts)
        return [len(text.split()) for text in texts]

    reward = TextReward(service, language_model)
    with pytest.raises(LikelihoodError, match="ConnectionError: too many requests"):
        reward(prompts, RESPONSE)
    assert len(seen) == 2
    expected = TextReward(counted([]), language_model)(prompts, RESPONSE)
    assert torch.equal(reward(prompts, RESPONSE), expected)
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), None, "good", "0.5", 1j, 10**400, -(10**400), [0.5], b"1", object],
)
def test_value_that_is_no_reward_is_shown_with_its_text(language_model, prompts, value):
    def odd(texts):
        return [value if text == "c b b" else 0.0 for text in texts]

    text = repr(value)
    shown = text[:120] + ("..." if len(text) > 120 else "")
    message = re.escape(f"reward 'taste' returned {shown} for the text 'c b b'")
    with pytest.raises(LikelihoodError, match=message):
        TextReward(odd, language_model, name="taste")(prompts, RESPONSE)


def test_integer_that_python_does_not_write_is_refused(language_model, prompts):
    match = "'taste' returned a int too large to write for the text 'a b a'"
    with pytest.raises(LikelihoodError, match=match):
        TextReward(lambda texts: [10**10_000] * len(texts), language_model, name="taste")(
            prompts, RESPONSE
        )


@pytest.mark.parametrize(
    "returned",
    [
        lambda values: torch.tensor(values, requires_grad=True),
        lambda values: torch.tensor(values, dtype=torch.bfloat16),
        lambda values: [torch.tensor(value, requires_grad=True) for value in values],
        lambda values: np.array(values, dtype=np.float32),
        lambda values: [np.float64(value) for value in values],
        lambda values: tuple(np.int64(value) for value in values),
        lambda values: [bool(value) for value in values],
        lambda values: [np.bool_(value) for value in values],
        lambda values: (value for value in values),
        lambda values: dict(enumerate(values)).values(),
    ],
)
def test_numbers_of_any_library_are_rewards(language_model, prompts, returned):
    reward = TextReward(
        lambda texts: returned([float("c" in text) for text in texts]), language_model
    )
    reward = reward(prompts, RESPONSE)
    assert reward.tolist() == [[0, 1], [0, 1], [1, 1]]
    assert not reward.requires_grad
    assert reward.dtype == torch.float64


@pytest.mark.parametrize(
    "returned",
    [
        lambda texts: torch.zeros(len(texts), 1),
        lambda texts: torch.zeros(1, len(texts)),
        lambda texts: torch.tensor(0.5),
        lambda texts: np.zeros((len(texts), 1)),
        lambda texts: "12345",
        lambda texts: dict.fromkeys(range(len(texts)), 0.0),
        lambda texts: set(range(len(texts))),
        lambda texts: 0.5,
        lambda texts: None,
        lambda texts: [],
        lambda texts: [1.0],
        lambda texts: [1.0] * 6,
    ],
)
def test_value_that_is_no_row_of_numbers_is_refused(language_model, prompts, returned):
    match = r"(?s)'taste' returned .* for 5 texts, expected a list of as many numbers"
    with pytest.raises(LikelihoodError, match=match):
        TextReward(returned, language_model, name="taste")(prompts, RESPONSE)


def test_generator_that_fails_on_a_text_is_refused_with_it(language_model, prompts):
    def lengths(texts):
        return (1 / ("c" not in text) for text in texts)

    with pytest.raises(LikelihoodError, match="failed on the text 'a b c c c': ZeroDivisionError"):
        TextReward(lambda texts: list(lengths(texts)), language_model)(
            prompts[[0]], RESPONSE[2:, :1]
        )
    with pytest.raises(LikelihoodError, match="ZeroDivisionError"):
        TextReward(lengths, language_model)(prompts, RESPONSE)


def test_impossible_texts_and_tensors_are_rewards(language_model, prompts):
    reward = TextReward(lambda texts: torch.full((len(texts),), -torch.inf), language_model)
    assert reward(prompts, RESPONSE).isneginf().all()
    model = AlignmentModel(language_model, reward, beta=1.0)
    with HardConstraintSupport():
        model(prompts)


def test_bound_of_the_function_is_the_bound_of_the_reward(language_model):
    assert TextReward(Pattern("a"), language_model).upper_bound == 1.0
    assert TextReward(Pattern("a"), language_model, upper_bound=3.0).upper_bound == 3.0
    assert TextReward(Pattern("a", count=True), language_model).upper_bound is None
    assert TextReward(vader_sentiment, language_model).upper_bound == 1.0
    assert TextReward(lambda texts: [0.0] * len(texts), language_model).upper_bound is None


@pytest.mark.parametrize(
    ("whole", "unique"),
    [(True, {"a b a", "c b b", "c a", "a b c c c", "c"}), (False, {"a", "b b", "c c c", ""})],
    ids=["prompt and response", "response alone"],
)
def test_text_reward_scores_each_distinct_text_once(whole, unique):
    seen = []

    def length(texts):
        seen.extend(texts)
        return [len(text.split()) for text in texts]

    language_model = tiny()
    prompts = language_model.encode(["a b", "c"])
    reward = TextReward(length, language_model, whole=whole)(prompts, RESPONSE)
    words = torch.tensor([[1, 2], [1, 1], [3, 0]]) + whole * torch.tensor([2, 1])
    assert reward.tolist() == words.tolist()
    assert len(seen) == len(unique)
    assert set(seen) == unique


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1, 3, 2)])
def test_text_reward_has_the_shape_of_the_batch_and_the_precision_of_the_function(shape):
    language_model = tiny()
    response = RESPONSE.expand(*shape, 3) if len(shape) > 1 else RESPONSE[0]
    reward = TextReward(lambda texts: [1 / 3] * len(texts), language_model)(
        language_model.encode(["a b", "c"]), response
    )
    assert reward.shape == shape
    assert (reward == 1 / 3).all()


def test_vader_prefers_praise():
    bad, neutral, good = vader_sentiment(["a terrible film", "a film", "a wonderful film"])
    assert -1 <= bad < neutral == 0 < good <= 1


def test_token_reward_sees_the_end_of_each_response():
    language_model = tiny()
    reward = TokenReward(lambda _, is_token: is_token.sum(-1), language_model)
    assert reward(language_model.encode(["a b", "c"]), RESPONSE).tolist() == [
        [2, 3],
        [2, 2],
        [3, 1],
    ]

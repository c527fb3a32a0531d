"""Regular expressions and word lists."""

import pytest

from model import Pattern

TEXTS = ["Good, really good.", "goodness", "not bad", ""]


@pytest.mark.parametrize(
    ("pattern", "reward"),
    [
        (Pattern("good"), [1, 1, 0, 0]),
        (Pattern("Good", ignore_case=False), [1, 0, 0, 0]),
        (Pattern("good", count=True), [2, 1, 0, 0]),
        (Pattern("^$"), [0, 0, 0, 1]),
        (Pattern.of_words(["good", "bad"]), [1, 0, 1, 0]),
        (Pattern.of_words(["good"], count=True), [2, 0, 0, 0]),
        (Pattern.of_words("good"), [1, 0, 0, 0]),
        (Pattern.of_words(["good."]), [1, 0, 0, 0]),
        (Pattern.of_words(["really good", "really"], count=True), [1, 0, 0, 0]),
        (Pattern.of_words(["really", "good", "really good"], count=True), [2, 0, 0, 0]),
        (Pattern.of_words(["Bad"], ignore_case=False), [0, 0, 0, 0]),
    ],
)
def test_matching_texts_have_reward_1(pattern, reward):
    assert pattern(TEXTS) == reward
    assert pattern.upper_bound == (None if pattern.count else 1.0)


def test_invalid_expression_is_refused():
    with pytest.raises(ValueError, match=r"'\(good' is no regular expression: missing \)"):
        Pattern("(good")


def test_a_word_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match=r"a word among \['good', 3\] is a int, expected a str"):
        Pattern.of_words(["good", 3])


@pytest.mark.parametrize("words", [[], [""], ["good", " "], ""])
def test_empty_words_are_refused(words):
    with pytest.raises(ValueError, match="expected some and none of them empty"):
        Pattern.of_words(words)

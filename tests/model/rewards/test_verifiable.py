"""Rewards that check a response: accuracy, format, repetition, soft length limit."""

import threading

import pytest
import torch

from inference import Enumeration
from model import (
    Accuracy,
    AlignmentModel,
    Format,
    LengthLimit,
    LikelihoodError,
    Repetition,
    TextReward,
)
from model.registry import REWARDS
from model.rewards.accuracy import MATH_VERIFY, answers_match


@pytest.fixture(scope="module")
def questions(prior):
    return prior.encode(["the film was"] * 3, columns={"answer": ["good", None, "Very bad."]})


@pytest.fixture(scope="module")
def response(prior, questions):
    return Enumeration(AlignmentModel(prior, {}, 1.0), questions).support


@pytest.mark.parametrize(
    ("text", "reference", "is_right"),
    [
        ("4", "4", True),
        ("so 2 + 2 is 4.", "4", True),
        ("4 or 5", "4", False),
        ("it is 4.0", "4", True),
        ("1,234 apples", "1234", True),
        ("12", "1,2", False),
        ("1,2", "12", False),
        ("1, 2", "1, 2", True),
        ("1,2000", "12000", False),
        ("1,234,567.5", "1234567.5", True),
        ("\N{MINUS SIGN}5", "-5", True),
        ("$ 12.50", "12.5", True),
        ("3/4", "0.75", True),
        ("about 1e3", "1000", True),
        ("-7", "7", False),
        ("1/0", "1", False),
        ("1e99999999", "4", False),
        ("2019-2020", "2020", True),
        ("5 -3", "-3", True),
        ("5-3", "3", True),
        ("x-5", "5", True),
        ("COVID-19", "19", True),
        (r"so $x\approx-5$", "-5", True),
        (r"so $x\approx-5$", "5", False),
        (r"$x\ge-5$", "-5", True),
        (r"$\Rightarrow-5$", "-5", True),
        ("答案是-5", "-5", True),
        ("答えは-12です", "-12", True),
        ("_-5_", "-5", True),
        ("__-5__", "-5", True),
        ("no number", "4", False),
        (r"first \boxed{3}, then \boxed{4} after 5 steps", "4", True),
        (r"\boxed{\text{Paris}}", r"\text{paris}", True),
        (r"\boxed{4", "4", True),
        ("5 + 5 = 10\n#### 10", "2 * 5 = <<2*5=10>>10\n#### 10", True),
        ("#### 11\nI mean 10", "#### 10", True),
        ("#### 10 apples", "10", True),
        ("  Paris. ", "paris", True),
        ("It is Paris", "Paris", False),
        ("#### Paris", "Paris", True),
    ],
)
def test_final_answer_is_compared_as_a_number_or_as_a_text(text, reference, is_right):
    assert answers_match(text, reference) == is_right


def test_accuracy_is_by_the_answer_of_the_prompt_and_absent_without_one(prior, questions, response):
    reward = TextReward(Accuracy(method="match"), prior)
    values, texts = reward(questions, response), prior.decode(response)
    for row, value in zip(texts, values.tolist(), strict=True):
        assert value[0] == (row[0] == "good")
        assert value[2] == (row[2] == "very bad")
    assert values[:, 1].isnan().all()
    assert reward.applies(questions).tolist() == [True, False, True]
    assert reward.upper_bound == 1.0


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (["good"], r"\['good'\] \(list\), expected a text, a number or None"),
        (" ", "' ', whose content is empty: leave out"),
        (". ", "'. ', whose content is empty: leave out"),
        (r"\boxed{}", ".*, whose content is empty: leave out"),
    ],
)
def test_a_reference_that_is_no_text_and_no_number_is_refused(prior, response, answer, fault):
    """The text of a list would never match, and the empty response alone an empty text."""
    prompts = prior.encode(["the film was"] * 3, columns={"answer": ["good", answer, 3]})
    with pytest.raises(LikelihoodError, match=f"reference answer {fault}"):
        TextReward(Accuracy(), prior)(prompts, response)


def test_absent_package_is_named(monkeypatch):
    monkeypatch.setattr("model.rewards.accuracy.find_spec", lambda name: None)
    assert Accuracy().method == "match"
    with pytest.raises(ImportError, match=r"pip install 'elbo-rl\[math\]'"):
        Accuracy(method="math-verify")


@pytest.mark.parametrize("in_thread", [False, True])
def test_math_verify_compares_expressions(in_thread):
    pytest.importorskip(MATH_VERIFY)
    cases = {
        (r"The answer is $\boxed{\frac{2}{4}}$", r"$\frac{1}{2}$"): 1.0,
        (r"$x = \frac{1}{3}$", r"$\frac{1}{2}$"): 0.0,
        ("so it is 12.", "12"): 1.0,
        ("so it is 13.", "12"): 0.0,
        ("Paris", "Paris"): 1.0,
        ("London", "Paris"): 0.0,
    }
    values = []

    def run():
        accuracy = Accuracy(method="math-verify")
        values.extend(accuracy(text, {"answer": reference}) for text, reference in cases)

    if in_thread:  # where the package cannot set a timer
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert values == list(cases.values())
    assert Accuracy().method == "math-verify"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>\na\n</think>\nb", 1.0),
        ("<think></think>", 1.0),
        ("<think>a</think> <think>b</think>", 0.0),
        ("<think>a", 0.0),
        ("b <think>a</think>", 0.0),
    ],
)
def test_format_is_by_default_reasoning_in_think_tags(text, value):
    assert Format()([text]) == [value]


def test_format_matches_the_whole_response(prior, questions, response):
    values = REWARDS["format"](prior, "(not )?(good|bad)")(questions, response)
    expected = [
        text in {"good", "bad", "not good", "not bad"} for text, *_ in prior.decode(response)
    ]
    assert values[:, 0].tolist() == expected
    with pytest.raises(ValueError, match="is no regular expression"):
        Format("(")


def test_repetition_is_the_share_of_repeated_runs(prior, questions):
    a, b, end = 5, 6, prior.end_ids[0]
    response = torch.tensor([[a, a, a], [a, b, a], [a, b, end]])
    pairs = Repetition(prior, 2)(questions, response)
    assert pairs.tolist() == [-0.5, 0.0, 0.0]
    single = Repetition(prior, 1)(questions, response[None])
    assert single.tolist() == [pytest.approx([-2 / 3, -1 / 3, 0.0])]
    empty = torch.tensor([[end, prior.pad_id, prior.pad_id]] * 3)
    assert Repetition(prior)(questions, empty).tolist() == [0.0] * 3


def test_length_limit_falls_linearly_within_the_margin(prior, questions):
    word, end, pad = 5, prior.end_ids[0], prior.pad_id
    response = torch.tensor([[end, pad, pad], [word, word, end], [word, word, word]])
    for longest, margin, expected in (
        (3, 2, [0.0, -0.5, -1.0]),
        (3, 3, [0.0, -2 / 3, -1.0]),
        (2, 1, [0.0, -1.0, -1.0]),
        (2, 0, [0.0, 0.0, -1.0]),
        (1, 1, [0.0, -1.0, -1.0]),
    ):
        values = LengthLimit(prior, longest, margin)(questions, response)
        assert values.tolist() == pytest.approx(expected), (longest, margin)
    with pytest.raises(ValueError, match=r"longest is 4, expected .* 3"):
        LengthLimit(prior, 4, 1)
    with pytest.raises(ValueError, match="expected two numbers of tokens"):
        REWARDS["length-limit"](prior, "3")

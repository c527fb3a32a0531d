"""Judges of texts: the order of a pair, one question for a pair, and answers that are refused."""

import pytest
import torch

from model import LikelihoodError, TextJudge


@pytest.fixture
def pairs(prior, prompts):
    """All pairs of some responses, `[S * S, N, T]` each, and their texts."""
    support = prior(prompts).sample((6,))
    first, second = torch.cartesian_prod(*[torch.arange(len(support))] * 2).T
    texts = prior.decode(support)
    return support[first], support[second], [texts[i] for i in first], [texts[j] for j in second]


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_each_pair_is_judged_once_and_in_its_order(prior, prompts, pairs, is_asynchronous):
    first, second, one, other = pairs
    questions = []

    def judge(prompts, first, second):
        questions.extend(zip(prompts, map(frozenset, zip(first, second, strict=True)), strict=True))
        return [a < b for a, b in zip(first, second, strict=True)]

    async def later(prompts, first, second):
        return judge(prompts, first, second)

    wins = TextJudge(later if is_asynchronous else judge, prior)(prompts, first, second)
    expected = [
        [0.5 if a == b else float(a < b) for a, b in zip(*rows, strict=True)]
        for rows in zip(one, other, strict=True)
    ]
    assert wins.tolist() == expected
    different = {
        (n, frozenset((a[n], b[n]))) for a, b in zip(one, other, strict=True) for n in (0, 1)
    }
    assert len(questions) == len(set(questions)) == sum(len(pair) == 2 for _, pair in different)
    assert {prompt for prompt, _ in questions} == set(prompts.texts)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda pairs: None, "returned no list for"),
        (lambda pairs: [1.0], r"returned 1 numbers for \d+ pairs"),
        (lambda pairs: [None] * pairs, "returned None for the pair '.*expected a probability"),
        (lambda pairs: [1.5] * pairs, "returned 1.5 for the pair"),
        (lambda pairs: torch.full((pairs,), torch.nan), "returned nan for the pair"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(prior, prompts, pairs, answer, words):
    with pytest.raises(LikelihoodError, match=words):
        TextJudge(lambda prompts, first, second: answer(len(first)), prior)(prompts, *pairs[:2])


def test_equal_texts_are_no_question(prior, prompts, pairs):
    judge = TextJudge(lambda *_: pytest.fail("asked"), prior)
    assert judge(prompts, pairs[0], pairs[0]).eq(0.5).all()

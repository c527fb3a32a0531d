"""Arithmetic questions with their answers, and a small prior that answers some of them."""

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple

from model import AlignmentModel, LanguageModel, Prompts, grammar_prior

WORDS = ("<end>", "+", "=", "is", "so", "well", *map(str, range(10)))
"""Vocabulary of the small prior."""
OPENINGS = {"": 0.4, "is": 0.3, "so": 0.2, "well": 0.1}
"""Words before the number in a response of the small prior, with their probabilities."""
ERRORS = {1: 0.5, -1: 0.3, 2: 0.2}
"""Errors of wrong numbers of the small prior, with their probabilities among wrong numbers."""
STEPS = 200
"""Number of training steps of the small prior."""
SYSTEM = "Answer with the number alone."


class Question(NamedTuple):
    """A question, and the answer."""

    text: str
    answer: str


def arithmetic(num: int, largest: int, seed: int) -> list[Question]:
    """Different sums of two numbers, in random order.

    Args:
        num: number of questions.
        largest: largest sum.
        seed: random seed of the questions.

    Exits if there are fewer different sums.
    """
    pairs = [(a, b) for a, b in itertools.product(range(largest + 1), repeat=2) if a + b <= largest]
    if num > len(pairs):
        raise SystemExit(f"--questions {num}: there are {len(pairs)} sums up to {largest}")
    chosen = random.Random(f"arithmetic of seed {seed}").sample(pairs, num)
    return [Question(f"{a} + {b} =", str(a + b)) for a, b in chosen]


def small_prior(questions: Sequence[Question]) -> LanguageModel:
    """Prior of the enumerable world: a number behind an opening, wrong more often for large sums.

    3,616 responses of at most three tokens to a prompt.
    """
    sentences: dict[str, float] = {}
    for text, answer in questions:
        right = 0.7 - 0.05 * int(answer)
        numbers = {0: right} | {error: (1 - right) * share for error, share in ERRORS.items()}
        for opening, number in itertools.product(OPENINGS, numbers):
            sentence = f"{text} {opening} {(int(answer) + number) % 10}"
            probability = OPENINGS[opening] * numbers[number] / len(questions)
            sentences[" ".join(sentence.split())] = probability
    return grammar_prior(max_new_tokens=3, sentences=sentences, words=WORDS, steps=STEPS)


def instruction(prior: LanguageModel) -> str | None:
    """`SYSTEM`; None without a chat template, and for one that refuses a message of the system."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "1 + 1"}]
    try:
        prior.tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template is a program, and raises anything
        return None
    return SYSTEM


def encoded(prior: LanguageModel, questions: Sequence[Question]) -> Prompts:
    """The questions with a column `answer`: chats for a chat model, otherwise texts."""
    texts, answers = zip(*questions, strict=True)
    if prior.tokenizer.chat_template is None:
        return prior.encode(texts, {"answer": answers})
    sums = [f"What is {text.removesuffix(' =')}?" for text in texts]
    if (system := instruction(prior)) is not None:
        return prior.encode(sums, {"answer": answers}, system=system)
    chats = [[{"role": "user", "content": f"{text} {SYSTEM}"}] for text in sums]
    return prior.encode(chats, {"answer": answers})


def answered(model: AlignmentModel, prompts: Prompts) -> Prompts:
    """The prompts with an answer; exit if none has one."""
    rows = [n for n, applies in enumerate(model.applies(prompts).tolist()) if applies]
    if not rows:
        raise SystemExit("--column: no question has an answer, expected some")
    return prompts[rows]

"""Rewards for what a text contains, or has as its format: a regular expression, a list of words."""

import re
from collections.abc import Iterable, Sequence
from typing import Self

from model.common.checks import boolean, instance
from model.common.texts import listed_texts

THINK = r"\s*<think>(?!.*<think>).*?</think>.*"
"""Reasoning within one pair of think tags, and then an answer."""


class Pattern:
    """1 for a text that contains a regular expression, else 0; or the number of matches.

    A function of texts, for `TextReward`.

    Args:
        pattern: a regular expression of Python's `re`, searched for anywhere in the text.
        count: return the number of matches that do not overlap.
        ignore_case: ignore the case of letters.
    """

    def __init__(self, pattern: str, *, count: bool = False, ignore_case: bool = True) -> None:
        ignore_case = boolean("ignore_case", ignore_case)
        self.count = boolean("count", count)
        self.pattern = _compiled(pattern, re.IGNORECASE if ignore_case else re.NOFLAG)
        self.upper_bound = None if count else 1.0

    @classmethod
    def of_words(
        cls, words: Iterable[str], *, count: bool = False, ignore_case: bool = True
    ) -> Self:
        """Any of some words or phrases, none empty, not inside longer words."""
        listed = [words] if isinstance(words, str) else list(instance("words", words, Iterable))  # type: ignore[type-abstract]
        stripped = {instance(f"a word among {listed!r}", word, str).strip() for word in listed}
        if not stripped or "" in stripped:
            raise ValueError(f"got the words {listed!r}, expected some and none of them empty")
        longest_first = sorted(stripped, key=lambda word: (-len(word), word))
        either = "|".join(map(re.escape, longest_first))
        return cls(rf"(?<!\w)(?:{either})(?!\w)", count=count, ignore_case=ignore_case)

    @property
    def __name__(self) -> str:
        return f"pattern {self.pattern.pattern}"

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """1 or 0, or the number of matches, for each of M texts."""
        texts = listed_texts(self.__name__, texts, at_least=0)
        if self.count:
            return [float(sum(1 for _ in self.pattern.finditer(text))) for text in texts]
        return [float(self.pattern.search(text) is not None) for text in texts]


class Format:
    r"""1 for a text that matches a regular expression from its beginning to its end, else 0.

        reward = TextReward(Format(r"The answer is \d+\."), prior, whole=False)

    A function of texts, for `TextReward`.

    Args:
        pattern: a regular expression of Python's `re`; a dot matches a line end too. By default
            the pattern of reasoning in think tags.
    """

    upper_bound = 1.0

    def __init__(self, pattern: str = THINK) -> None:
        self.pattern = _compiled(pattern, re.DOTALL)
        self.__name__ = f"format {pattern}"

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """1 or 0 for each of M texts."""
        texts = listed_texts(self.__name__, texts, at_least=0)
        return [float(self.pattern.fullmatch(text) is not None) for text in texts]


def _compiled(pattern: str, flags: re.RegexFlag) -> re.Pattern[str]:
    try:
        return re.compile(instance("pattern", pattern, str), flags)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

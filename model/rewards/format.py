"""Format of a response as a reward: a regular expression that the whole response matches."""

import re
from collections.abc import Sequence

from model.common.checks import instance
from model.common.texts import listed_texts

THINK = r"\s*<think>(?!.*<think>).*?</think>.*"
"""Reasoning within one pair of think tags, and then an answer."""


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
        try:
            self.pattern = re.compile(instance("pattern", pattern, str), re.DOTALL)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        self.__name__ = f"format {pattern}"

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """1 or 0 for each of M texts."""
        texts = listed_texts(self.__name__, texts, at_least=0)
        return [float(self.pattern.fullmatch(text) is not None) for text in texts]

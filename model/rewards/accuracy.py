r"""Accuracy: 1 for the right final answer, by a column of reference answers.

The final answer of a text is, in this order,

    the content of the last \boxed{...}
    the text behind the last "####", as in GSM8K (Cobbe et al. 2021, arXiv 2110.14168)
    the last number, if the reference is a number
    the whole text

With `math-verify` (extra `[math]`) the package finds and compares answers instead: LaTeX,
fractions, sets, equations (https://github.com/huggingface/Math-Verify).
"""

import re
import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Literal

from model.common.checks import instance, one_of
from model.likelihood import check_answers

WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
"""A whole number, whose commas separate thousands: "1,2" is two numbers."""
SIGN = r"(?:(?<!\d)(?<![^\W_\u0530-\U0010ffff])[-+])?"
"""A sign. Behind a digit or a Latin, Greek or Cyrillic letter it is a hyphen or an operation, as in
"2019-2020" and "x-5"; scripts without spaces have a number right behind a word."""
COMMAND = re.compile(r"\\[A-Za-z]+")
"""A command of LaTeX, which is no word before a hyphen: "\\approx-5" is minus 5."""
POWER = rf"e(?P<exponent>[-+]?\d+)|/{WHOLE}"
NUMBER = re.compile(rf"{SIGN}(?:{WHOLE}(?:\.\d+)?|\.\d+)(?:{POWER})?", re.IGNORECASE)
LARGEST_EXPONENT = 1000
"""Largest power of ten: the exact number of the text 1e99999999 would fill the memory.

What has a larger exponent is not read as a number, and equals none.
"""
MINUS = "\N{MINUS SIGN}"
METHODS = ("match", "math-verify")
MATH_VERIFY = "math_verify"


class Accuracy:
    r"""1 if the final answer equals the reference answer of the prompt, else 0; for `TextReward`.

        prompts = prior.encode(["2 + 2 ="], columns={"answer": ["4"]})
        reward = TextReward(Accuracy("answer"), prior)

    The reward does not apply to a prompt whose reference is None.

    Args:
        column: name of the column with the reference answers, texts or numbers. A reference may
            have its own \boxed{...} or "####" behind a derivation.
        method: `match` for equal numbers, or texts equal up to case and spaces; `math-verify` for
            the package, with `match` for references that the package does not read. By default
            the package if it is installed.

    Raises:
        ImportError: if the package is chosen and not installed.
    """

    upper_bound = 1.0

    def __init__(
        self, column: str = "answer", method: Literal["match", "math-verify"] | None = None
    ) -> None:
        is_installed = find_spec(MATH_VERIFY) is not None
        self.column = instance("column", column, str)
        self.method = METHODS[is_installed] if method is None else one_of("method", method, METHODS)
        if self.method == METHODS[1] and not is_installed:
            raise ImportError("math-verify is not installed: pip install 'elbo-rl[math]'")
        self.columns = (column,)
        self.__name__ = f"accuracy by {column} ({self.method})"

    def check_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Refuse a reference answer that is empty, or no text, number or None."""
        check_answers(self.column, columns[self.column], lambda text: _plain(final_answer(text)))

    def __call__(
        self, completion: str | Sequence[Mapping[str, Any]], state: Mapping[str, Any]
    ) -> float | None:
        """1, 0 or None for a response, by the signature of verifiers."""
        reference = state[self.column]
        self.check_columns({self.column: [reference]})
        if reference is None:
            return None
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        if self.method == METHODS[1]:
            verified = math_verified(text, str(reference))
            if verified is not None:
                return float(verified)
        return float(answers_match(text, str(reference)))


def answers_match(text: str, reference: str) -> bool:
    """True if the final answer of a text equals a reference: as numbers, else as texts."""
    text, reference = text.replace(MINUS, "-"), reference.replace(MINUS, "-")
    answer, expected = final_answer(text), final_answer(reference)
    number = number_of(expected)
    if number is None:
        return _plain(answer) == _plain(expected)
    numbers = [match[0] for match in NUMBER.finditer(COMMAND.sub(" ", answer))]
    return bool(numbers) and number_of(numbers[-1]) == number


def final_answer(text: str) -> str:
    r"""Content of the last \boxed{...}, else the text behind the last "####", else the text."""
    _, box, rest = text.rpartition("\\boxed{")
    if box and (end := _closing(rest)) is not None:
        return rest[:end]
    _, mark, rest = text.rpartition("####")
    return rest if mark else text


def number_of(text: str) -> Fraction | None:
    """The number that a text is, without separators of thousands, unit $ or %; None otherwise."""
    match = NUMBER.fullmatch(text.strip().strip("$%").rstrip(".").strip())
    try:
        if match is None or abs(int(match["exponent"] or 0)) > LARGEST_EXPONENT:
            return None
        return Fraction(match[0].replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def math_verified(text: str, reference: str) -> bool | None:
    """True if `math-verify` finds the reference in a text; None for an unread reference."""
    import math_verify

    # the package stops a long computation by a signal, which the main thread alone can receive
    is_main = threading.current_thread() is threading.main_thread()
    timeout: dict[str, Any] = {} if is_main else {"parsing_timeout": None}
    expected = math_verify.parse(reference, **timeout)
    if not expected:
        return None
    answer = math_verify.parse(text, **timeout)
    return math_verify.verify(expected, answer, **({} if is_main else {"timeout_seconds": None}))


def _closing(text: str) -> int | None:
    """Place of the brace that closes a brace before the text; None without."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return place
    return None


def _plain(text: str) -> str:
    """The text in small letters, with single spaces and no full stop at the end."""
    return " ".join(text.casefold().split()).rstrip(".")

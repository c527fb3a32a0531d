"""Self-BLEU: how much each response resembles the others, as a score of diversity; 1 where all are the same.

    BLEU_n(x) = BP(x) exp(1/n sum_k log p_k(x)),   p_k = share of x's k-grams that some other response has

The mean over responses of the BLEU of each with all others as references (Zhu et al. 2018, arXiv 1802.01886; BLEU: Papineni et
al. 2002). k-grams count as often as the reference with most of them has them; BP = exp(1 - c/l) where x's length l is below c,
that of the reference nearest in length, the shorter of two. A p_k of 0 counts as 0.1 matches (Chen and Cherry 2014, method 1),
and a response too short to have k-grams as one k-gram without a match, as nltk has both.
"""

from __future__ import annotations

import math
from collections import Counter

from torch import Tensor

from model.common.checks import instance, whole_number

SMOOTHING = 0.1

Gram = tuple[int, ...]


def self_bleu(response: Tensor, is_token: Tensor, n: int = 5) -> float:
    """Self-BLEU-n, within each prompt's responses and averaged over prompts; between 0 and 1.

    It grows with the number of responses: compare as many with as many.

    Args:
        response: `[M, N, T]`, token ids, at least two for each prompt.
        is_token: the same shape, True where a position is not padding.
        n: the longest run of tokens.

    Raises:
        ValueError: if there is one response to a prompt, or n < 1.
    """
    n = whole_number("n", n, why="tokens in a run")
    instance("response", response, Tensor)
    instance("is_token", is_token, Tensor)
    if (
        response.dim() != 3
        or response.shape != is_token.shape
        or len(response) < 2
        or not response.shape[1]
    ):
        raise ValueError(
            f"response has shape {tuple(response.shape)} and is_token {tuple(is_token.shape)}, expected [M, N, T] for both, "
            "with at least 2 responses to compare"
        )
    scores = []
    for prompt in range(response.shape[1]):
        pairs = zip(response[:, prompt], is_token[:, prompt], strict=True)
        scores.append(_of_prompt([tuple(row[mask].tolist()) for row, mask in pairs], n))
    return sum(scores) / len(scores)


def _of_prompt(rows: list[Gram], n: int) -> float:
    log_precision = [0.0] * len(rows)
    for k in range(1, n + 1):
        counts = [Counter(row[i : i + k] for i in range(len(row) - k + 1)) for row in rows]
        most = _two_highest(counts)
        for index, grams in enumerate(counts):
            matched = sum(
                min(count, _in_others(most[gram], count)) for gram, count in grams.items()
            )
            log_precision[index] += math.log((matched or SMOOTHING) / max(1, grams.total())) / n
    lengths = Counter(map(len, rows))
    return sum(
        math.exp(_log_penalty(len(row), lengths) + part)
        for row, part in zip(rows, log_precision, strict=True)
    ) / len(rows)


def _two_highest(counts: list[Counter[Gram]]) -> dict[Gram, tuple[int, int]]:
    """For each gram, how often the row with most of it has it, and the row with second most."""
    most: dict[Gram, tuple[int, int]] = {}
    for grams in counts:
        for gram, count in grams.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (max(first, count), max(second, min(first, count)))
    return most


def _in_others(most: tuple[int, int], own: int) -> int:
    """How often some other row has a gram, at most: the row with most of it is left with the second most."""
    first, second = most
    return second if own == first else first


def _log_penalty(length: int, lengths: Counter[int]) -> float:
    """log BP against the other rows, of which this one is none."""
    others = [other for other, count in lengths.items() if count > (other == length)]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return min(0.0, 1 - nearest / length) if length else 0.0

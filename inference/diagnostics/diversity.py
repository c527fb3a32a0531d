"""Scores of the diversity of responses: distinct-n and self-BLEU.

    distinct_n   share of different runs of n tokens
    self_bleu    mean similarity of a response to all others, 1 if all are equal
    BLEU_n(x) = BP(x) exp(1/n sum_k log p_k(x)),   p_k = share of x's k-grams in another response

Zhu et al. 2018, arXiv 1802.01886; BLEU: Papineni et al. 2002. A k-gram counts at most as often as
in the reference that has the most of it. BP = exp(1 - c/l) if the length l of x is below c, the
length of the reference nearest in length, the shorter of two. Smoothing as in nltk (Chen and Cherry
2014, method 1): no match counts as 0.1 matches, and a response without k-grams as one k-gram.
"""

import math
from collections import Counter

from torch import Tensor

from model.common.checks import instance, whole_number

SMOOTHING = 0.1

Gram = tuple[int, ...]
"""A run of token ids."""


def distinct_n(response: Tensor, is_token: Tensor, n: int) -> float:
    """Number of different runs of n tokens, as a share of all runs (Li et al. 2016).

    Within each prompt's responses, averaged over prompts; 0 if no response has n tokens.

    Args:
        response: `[M, N, T]`, token ids.
        is_token: `[M, N, T]`, True where a position is not padding.
        n: number of tokens in a run.
    """
    n = check_runs(response, is_token, n, at_least=1)
    if response.shape[-1] < n:
        return 0.0
    shares = []
    whole = is_token.unfold(-1, n, 1).all(-1)  # [M, N, T - n + 1]
    for prompt in range(response.shape[1]):
        runs = response[:, prompt].unfold(-1, n, 1)[whole[:, prompt]]
        shares.append(len(runs.unique(dim=0)) / max(1, len(runs)))
    return sum(shares) / len(shares)


def self_bleu(response: Tensor, is_token: Tensor, n: int = 5) -> float:
    """Self-BLEU-n within each prompt's responses, averaged over prompts, between 0 and 1.

    Grows with the number of responses: compare equal numbers.

    Args:
        response: `[M, N, T]`, token ids, M at least 2.
        is_token: `[M, N, T]`, True where a position is not padding.
        n: length of the longest run of tokens.

    Raises:
        ValueError: if there is one response to a prompt, or n < 1.
    """
    n = check_runs(response, is_token, n, at_least=2)
    scores = []
    for prompt in range(response.shape[1]):
        pairs = zip(response[:, prompt], is_token[:, prompt], strict=True)
        scores.append(_of_prompt([tuple(row[mask].tolist()) for row, mask in pairs], n))
    return sum(scores) / len(scores)


def check_runs(response: Tensor, is_token: Tensor, n: int, at_least: int) -> int:
    """Length n of runs of tokens in M >= `at_least` responses `[M, N, T]` and their mask."""
    shape = instance("response", response, Tensor).shape
    instance("is_token", is_token, Tensor)
    if len(shape) != 3 or shape != is_token.shape or shape[0] < at_least or not response.numel():
        raise ValueError(
            f"response has shape {tuple(shape)} and is_token {tuple(is_token.shape)}, expected "
            f"[M, N, T] for both, with a prompt and at least {at_least} responses to compare"
        )
    return whole_number("n", n, why="tokens in a run")


def _of_prompt(rows: list[Gram], n: int) -> float:
    log_precision = [0.0] * len(rows)
    for k in range(1, n + 1):
        counts = [Counter(row[i : i + k] for i in range(len(row) - k + 1)) for row in rows]
        most = _two_highest(counts)
        for index, grams in enumerate(counts):
            matches = 0
            for gram, count in grams.items():
                first, second = most[gram]
                # the other rows have at most `second` where this row has `first`
                matches += min(count, second if count == first else first)
            log_precision[index] += math.log((matches or SMOOTHING) / max(1, grams.total())) / n
    lengths = Counter(map(len, rows))
    penalties = [_log_penalty(len(row), lengths) for row in rows]
    pairs = zip(penalties, log_precision, strict=True)
    return sum(math.exp(penalty + part) for penalty, part in pairs) / len(rows)


def _two_highest(counts: list[Counter[Gram]]) -> dict[Gram, tuple[int, int]]:
    """The highest and the second highest count of each gram in a row."""
    most: dict[Gram, tuple[int, int]] = {}
    for grams in counts:
        for gram, count in grams.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (max(first, count), max(second, min(first, count)))
    return most


def _log_penalty(length: int, lengths: Counter[int]) -> float:
    """log BP of a row against the other rows."""
    others = [other for other, count in lengths.items() if count > (other == length)]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return min(0.0, 1 - nearest / length) if length else 0.0

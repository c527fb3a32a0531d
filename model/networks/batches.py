"""Texts through a network, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.common.texts import listed_texts


@torch.no_grad()
def in_batches(
    function: Callable[[list[str]], Tensor], texts: Sequence[str], batch_size: int
) -> Tensor:
    """function(texts), computed on at most `batch_size` of them at a time, texts of a length together; in their order.

    Args:
        function: takes a list of B texts, returns `[B, ...]`.
        texts: M texts.
        batch_size: the most texts at a time.

    Returns:
        `[M, ...]`, on the CPU.

    Raises:
        TypeError: if those are no texts, with the index of what is none.
        ValueError: for a single text, or one with half of a surrogate pair.
    """
    texts = listed_texts("a network that reads texts", texts, at_least=0)
    if not texts:
        return torch.empty(0)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [
        function([texts[i] for i in order[start : start + batch_size]]).cpu()
        for start in range(0, len(order), batch_size)
    ]
    place = torch.tensor(order).argsort()
    return torch.cat(parts)[place]

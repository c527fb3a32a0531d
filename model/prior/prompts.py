"""Prompts: N texts as one left-padded batch of token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.common.digests import text_digest


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a language model is conditioned on: N prompts, padded on the left so that all end at the same column.

    Made by `LanguageModel.encode`. The mask, not the padding id, says what is padding.

    Attributes:
        texts: the N prompts as written.
        ids: `[N, P]`, token ids.
        mask: `[N, P]`, True where `ids` belongs to the prompt.
        vocabulary: digest of the vocabulary that the ids are of; None for prompts that no language model encoded.

    Raises:
        ValueError: if texts, ids and mask are not of N prompts padded on the left, none of them empty.
    """

    texts: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    vocabulary: str | None = None

    def __post_init__(self) -> None:
        for name, tensor in (("ids", self.ids), ("mask", self.mask)):
            if (
                not isinstance(tensor, Tensor)
                or tensor.dim() != 2
                or len(tensor) != len(self.texts)
            ):
                shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(
                    f"{name} is {shape}, expected a tensor [{len(self.texts)}, P]: a row for each text"
                )
        if (
            self.ids.shape != self.mask.shape
            or self.mask.dtype != torch.bool
            or not _is_integer(self.ids)
        ):
            raise ValueError(
                f"ids have shape {tuple(self.ids.shape)} and type {self.ids.dtype}, the mask {tuple(self.mask.shape)} and "
                f"{self.mask.dtype}, expected one shape, integers and booleans"
            )
        if not self.texts or not self.ids.shape[1]:
            raise ValueError(
                f"got {len(self.texts)} prompts of {self.ids.shape[1]} columns, expected at least one of each"
            )
        if not bool((self.mask[:, 1:] | ~self.mask[:, :-1]).all() & self.mask[:, -1].all()):
            raise ValueError(
                "the mask has a prompt that is empty or not padded on the left, expected its tokens at the end"
            )

    @classmethod
    def from_ids(
        cls,
        rows: Sequence[Sequence[int]],
        texts: Sequence[str],
        device: torch.device | None = None,
        vocabulary: str | None = None,
    ) -> Prompts:
        """Pad `rows` of token ids, none empty, on the left to the length of the longest."""
        if len(rows) != len(texts) or not all(rows):
            raise ValueError(
                f"got {len(rows)} rows of token ids for {len(texts)} texts, expected one each and none of them empty"
            )
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
        mask = torch.tensor(
            [[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=device
        )
        return cls(tuple(texts), ids, mask, vocabulary)

    def rows(self) -> list[list[int]]:
        """The token ids of each prompt, without padding."""
        return [
            ids[mask].tolist() for ids, mask in zip(self.ids.cpu(), self.mask.cpu(), strict=True)
        ]

    def names(self) -> list[str]:
        """A name of each prompt for what is remembered of it: of its text, its token ids and how often it came before here.

        Texts alone may be the same for two prompts of different ids, or for two that evidence tells apart by position.
        """
        counts: Counter[str] = Counter()
        names = []
        for text, row in zip(self.texts, self.rows(), strict=True):
            digest = text_digest(repr((text, row)))[:16]
            names.append(f"{digest}.{counts[digest]}")
            counts[digest] += 1
        return names

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, indices: Sequence[int] | slice) -> Prompts:
        """The prompts at `indices` (a slice or a list), for minibatches; columns that are padding for all are dropped."""
        picked = list(range(len(self))[indices]) if isinstance(indices, slice) else list(indices)
        mask = self.mask[picked]
        columns = slice(int(mask.any(0).int().argmax()), None)
        texts = tuple(self.texts[i] for i in picked)
        return Prompts(texts, self.ids[picked][:, columns], mask[:, columns], self.vocabulary)

    def to(self, device: torch.device | str) -> Prompts:
        """The same prompts on another device."""
        return Prompts(self.texts, self.ids.to(device), self.mask.to(device), self.vocabulary)


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)

"""Prompts: N texts as one left-padded batch of token ids."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model.common.digests import text_digest


@dataclass(frozen=True, eq=False)
class Prompts:
    """N prompts, padded on the left so that all end at the same column.

    Made by `LanguageModel.encode`. Padding is defined by the mask, not by the padding id.

        prompts = prior.encode(["The film was", "The acting is"])
        first = prompts[[0]]

    Attributes:
        texts: the N prompts as written.
        ids: `[N, P]`, token ids.
        mask: `[N, P]`, True where `ids` belongs to the prompt.
        vocabulary: digest of the vocabulary; None for prompts that no language model encoded.
    """

    texts: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    vocabulary: str | None = None

    def __post_init__(self) -> None:
        for name, tensor in (("ids", self.ids), ("mask", self.mask)):
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(self.texts):
                raise ValueError(f"{name} is {shape}, expected a tensor [{len(self.texts)}, P]")
        is_bool = [tensor.dtype == torch.bool for tensor in (self.ids, self.mask)]
        is_integer = not (self.ids.is_floating_point() or self.ids.is_complex() or is_bool[0])
        if self.ids.shape != self.mask.shape or not is_integer or not is_bool[1]:
            raise ValueError(
                f"ids have shape {tuple(self.ids.shape)} and type {self.ids.dtype}, the mask "
                f"{tuple(self.mask.shape)} and {self.mask.dtype}, expected one shape, integers and "
                "booleans"
            )
        if not self.texts or not self.ids.shape[1]:
            size = f"{len(self.texts)} prompts of {self.ids.shape[1]} columns"
            raise ValueError(f"got {size}, expected at least one of each")
        if not bool((self.mask[:, 1:] | ~self.mask[:, :-1]).all() & self.mask[:, -1].all()):
            raise ValueError("the mask has a prompt that is empty or not padded on the left")

    @classmethod
    def from_ids(
        cls,
        rows: Sequence[Sequence[int]],
        texts: Sequence[str],
        device: torch.device | None = None,
        vocabulary: str | None = None,
    ) -> Self:
        """Prompts of N rows of token ids, none empty."""
        if len(rows) != len(texts) or not all(rows):
            counts = f"{len(rows)} rows of token ids for {len(texts)} texts"
            raise ValueError(f"got {counts}, expected one each and none of them empty")
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(longest, device=device) >= longest - lengths[:, None]
        return cls(tuple(texts), ids, mask, vocabulary)

    def rows(self) -> list[list[int]]:
        """The token ids of each prompt, without padding."""
        ids, mask = self.ids.cpu(), self.mask.cpu()
        return [ids[n, mask[n]].tolist() for n in range(len(self))]

    def names(self) -> list[str]:
        """A name of each prompt, of its text, its ids and the number of equal prompts before."""
        counts: Counter[str] = Counter()
        names = []
        for text, row in zip(self.texts, self.rows(), strict=True):
            digest = text_digest(repr((text, row)))[:16]
            names.append(f"{digest}.{counts[digest]}")
            counts[digest] += 1
        return names

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, indices: Sequence[int] | slice) -> Self:
        """The prompts at `indices`, a slice or a list. Columns of padding alone are dropped."""
        rows = list(range(len(self))[indices]) if isinstance(indices, slice) else list(indices)
        mask = self.mask[rows]
        columns = slice(int(mask.any(0).int().argmax()), None)
        texts = tuple(self.texts[row] for row in rows)
        return replace(self, texts=texts, ids=self.ids[rows][:, columns], mask=mask[:, columns])

    def to(self, device: torch.device | str) -> Self:
        """The same prompts on another device."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device))

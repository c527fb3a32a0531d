"""Prompts: N texts or chats as one left-padded batch of token ids, with columns of data."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from model.common.checks import instance
from model.common.files import text_digest
from model.common.texts import plain, quoted
from model.prior.chat import Messages

Columns = Mapping[str, Sequence[Any]]
"""Data that came with N prompts, by name: N values each, such as reference answers."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """N prompts, padded on the left so that all end at the same column.

    Made by `LanguageModel.encode`. Padding is defined by the mask, not by the padding id.

        prompts = prior.encode(["2 + 2 =", "1 + 1 ="], columns={"answer": ["4", "2"]})
        first = prompts[[0]]
        first.columns["answer"]  # ("4",)

    Prompts are told apart by position: two equal texts are two prompts, for a beta of each prompt,
    for replay buffers and for averages of log Z. A guide sees the token ids alone, so that equal
    texts have one q.

    Attributes:
        texts: the N prompts as written; of a chat, the text by the chat template.
        ids: `[N, P]`, token ids.
        mask: `[N, P]`, True where `ids` belongs to the prompt.
        vocabulary: digest of the vocabulary; None for prompts that no language model encoded.
        messages: messages of each chat, None for a prompt that is a text.
        columns: data by name, one value for each prompt.
        positions: place of each prompt among the prompts that were encoded together.
        lengths: number of tokens of each prompt.
    """

    texts: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    vocabulary: str | None = None
    messages: tuple[Messages | None, ...] = ()
    columns: Columns = field(default_factory=dict)
    positions: tuple[int, ...] = ()
    lengths: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        num_prompts = len(self.texts)
        defaults = {"messages": (None,) * num_prompts, "positions": tuple(range(num_prompts))}
        for name, default in defaults.items():
            object.__setattr__(self, name, getattr(self, name) or default)
        for name, part in {"messages": self.messages, "positions": self.positions}.items():
            if len(part) != num_prompts:
                raise ValueError(f"{name} has {len(part)} entries, expected {num_prompts}")
        object.__setattr__(self, "columns", checked_columns(self.columns, num_prompts))
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
        is_left = (self.mask[:, 1:] | ~self.mask[:, :-1]).all() & self.mask[:, -1].all()
        is_left, *lengths = torch.cat([is_left[None], self.mask.sum(1)]).tolist()
        object.__setattr__(self, "lengths", tuple(lengths))
        if not is_left:
            raise ValueError("the mask has a prompt that is empty or not padded on the left")

    @classmethod
    def from_ids(
        cls,
        rows: Sequence[Sequence[int]],
        texts: Sequence[str],
        device: torch.device | None = None,
        **attributes: Any,
    ) -> Self:
        """Prompts of N rows of token ids, none empty, and further attributes of the class."""
        for name, value in {"rows": rows, "texts": texts}.items():
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise TypeError(f"{name} is a {type(value).__name__}, expected a list")
        for n, text in enumerate(texts):
            instance(f"texts[{n}]", text, str)
        if len(rows) != len(texts) or not all(rows):
            counts = f"{len(rows)} rows of token ids for {len(texts)} texts"
            raise ValueError(f"got {counts}, expected one each and none of them empty")
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for n, row in enumerate(rows):
            try:
                own = torch.tensor(row)
                is_ids = own.dtype == torch.long and own.dim() == 1 and bool((own >= 0).all())
            except (TypeError, ValueError):  # texts, or lists of several lengths
                is_ids = False
            if not is_ids:
                raise TypeError(
                    f"rows[{n}] is {quoted(row)}, expected token ids: a list of whole numbers"
                )
            ids[n, longest - len(row) :] = own
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(longest) >= longest - lengths[:, None]
        ids, mask = ids.to(device), mask.to(device)
        return cls(tuple(texts), ids, mask, **attributes)

    @property
    def is_padded(self) -> bool:
        """True if some prompts are shorter than others."""
        return min(self.lengths) < self.ids.shape[1]

    def rows(self) -> list[list[int]]:
        """The token ids of each prompt, without padding."""
        return [list(row) for row in self._rows]

    @cached_property
    def _rows(self) -> list[list[int]]:
        both = torch.stack([self.ids, self.mask.to(self.ids)], -1)  # one wait for the device
        return [[id_ for id_, is_own in row if is_own] for row in both.tolist()]

    def names(self) -> list[str]:
        """A name of each prompt, of position, text, ids and columns; the same in every process."""
        return list(self._names)

    @cached_property
    def _names(self) -> list[str]:
        names = []
        for n, row in enumerate(self._rows):
            data = {name: values[n] for name, values in self.columns.items()}
            content = json.dumps([self.texts[n], row, data], sort_keys=True)
            names.append(f"{self.positions[n]}.{text_digest(content)[:16]}")
        return names

    def get_state(self) -> dict[str, Tensor]:
        """The prompts as tensors, for checkpoints; see `from_state`."""
        names = ("texts", "vocabulary", "messages", "columns", "positions")
        record = json.dumps({name: getattr(self, name) for name in names}).encode()
        tensors = {"ids": self.ids, "mask": self.mask}
        return tensors | {"record": torch.frombuffer(bytearray(record), dtype=torch.uint8)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The prompts of `get_state`."""
        record = json.loads(bytes(state["record"].tolist()))
        chats = (None if chat is None else tuple(chat) for chat in record["messages"])
        return cls(
            tuple(record["texts"]),
            state["ids"],
            state["mask"],
            record["vocabulary"],
            tuple(chats),
            record["columns"],
            tuple(record["positions"]),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, indices: Sequence[int] | Tensor | slice) -> Self:
        """The prompts at `indices`: a slice, positions as of a plate, or N truth values.

        Columns of padding alone are dropped.
        """
        if isinstance(indices, Tensor):
            indices = indices.tolist()
        chosen = indices if isinstance(indices, slice) else list(indices)
        rows = np.arange(len(self))[chosen].tolist()
        if not rows:
            raise ValueError("got no prompts, expected at least one")
        index = torch.tensor(rows, device=self.ids.device)
        first = self.ids.shape[1] - max(self.lengths[row] for row in rows)
        new = copy.copy(self)  # without the checks, which wait for the device
        for name in ("_rows", "_names"):
            vars(new).pop(name, None)
        for name in ("texts", "messages", "positions", "lengths"):
            vars(new)[name] = tuple(getattr(self, name)[row] for row in rows)
        columns = self.columns.items()
        vars(new)["columns"] = {name: tuple(of[row] for row in rows) for name, of in columns}
        vars(new).update(ids=self.ids[index, first:], mask=self.mask[index, first:])
        return new

    def to(self, device: torch.device | str) -> Self:
        """The same prompts on another device."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device))


def checked_columns(columns: object, num_prompts: int) -> dict[str, tuple[Any, ...]]:
    """Columns of plain data, one value for each of N prompts; refused by name and row otherwise."""
    if not isinstance(columns, Mapping):
        kind = type(columns).__name__
        raise TypeError(f"columns is a {kind}, expected a dict of lists, one value for each prompt")
    checked = {}
    for name, values in columns.items():
        if not isinstance(name, str):
            raise TypeError(f"a column is named {quoted(name)}, expected a text")
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
            kind = type(values).__name__
            raise TypeError(f"the column {name!r} is a {kind}, expected a list of values")
        if len(values) != num_prompts:
            counts = f"{len(values)} values for {num_prompts} prompts"
            raise ValueError(f"the column {name!r} has {counts}, expected one each")
        where = f"the column {name!r}"
        checked[name] = tuple(
            plain(value, f"{where} of prompt {n}") for n, value in enumerate(values)
        )
    return checked


def check_prompts(prompts: object) -> Prompts:
    """The prompts, at least one; a `TypeError` for texts, and a `ValueError` for none."""
    checked = instance("prompts", prompts, Prompts, why="`prior.encode([...])` makes them of texts")
    if not len(checked):
        raise ValueError("there are no prompts, expected at least one")
    return checked

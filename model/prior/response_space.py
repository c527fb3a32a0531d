"""The set of responses: every row of T token ids that a language model can give.

A response is its tokens up to and including the first end id, then padding; or T tokens with no end
id among them, a truncated response. The padding id may be an end id or a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.common.checks import instance
from model.prior.prompts import Prompts, check_prompts

MAX_ENUMERABLE = 1_000_000  # largest number of responses that are enumerated


class NotEnumerableError(ValueError):
    """The set of responses is too large to enumerate."""


class OtherLanguageModelError(ValueError):
    """An object made for one language model meets another: its prompts, responses or rewards."""


@dataclass(frozen=True, eq=False)
class ResponseSpace:
    """The shape and the token ids of responses.

    Attributes:
        max_new_tokens: T, number of positions of a response.
        vocab_size: V, number of token ids.
        end_ids: `[E]`, ids that end a response.
        pad_id: fills the positions after the end.
        vocabulary: digest of the vocabulary; None if unknown.
    """

    max_new_tokens: int
    vocab_size: int
    end_ids: Tensor
    pad_id: int
    vocabulary: str | None = None

    def is_end(self, token: Tensor) -> Tensor:
        """True for ids that end a response, of any shape. Never waits for the device."""
        return (token[..., None] == self.end_ids).any(-1)

    def is_token(self, response: Tensor) -> Tensor:
        """True at the tokens of a response, its end id included; False after it. `[..., T]`."""
        ends = self.is_end(response).int()
        return (ends.cumsum(-1) - ends) == 0

    def is_word(self, response: Tensor) -> Tensor:
        """True at the tokens of a response before its end id. `[..., T]`."""
        return self.is_token(response) & ~self.is_end(response)

    def contains(self, response: Tensor) -> Tensor:
        """True if padding alone follows the end. `[..., T]` -> `[...]`."""
        return ((response == self.pad_id) | self.is_token(response)).all(-1)

    def difference(self, other: Self) -> str | None:
        """The first difference between the responses of two models, in words; None without one."""
        for name in ("max_new_tokens", "vocab_size", "pad_id"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)} and {getattr(other, name)}"
        if self.end_ids is not other.end_ids:  # the ids themselves are read from a GPU
            ends, other_ends = (sorted(space.end_ids.tolist()) for space in (self, other))
            if ends != other_ends:
                return f"end_ids {ends} and {other_ends}"
        return "tokenizers of other entries" if _differ(self.vocabulary, other.vocabulary) else None

    def check(self, prompts: Prompts, response: Tensor | None = None) -> None:
        """Refuse prompts and responses of another model, by an `OtherLanguageModelError`."""
        if _differ(self.vocabulary, check_prompts(prompts).vocabulary):
            raise OtherLanguageModelError(
                f"the prompts, of which the first is {prompts.texts[0][:40]!r}, were encoded by "
                "the tokenizer of another language model: encode them with this language model"
            )
        if prompts.ids.device != self.end_ids.device:
            raise ValueError(
                f"the prompts are on {prompts.ids.device} and the language model on "
                f"{self.end_ids.device}, expected one device: take "
                f"`prompts.to({str(self.end_ids.device)!r})`"
            )
        if response is None:
            return
        if (num := instance("response", response, Tensor).shape[-1]) != self.max_new_tokens:
            got = f"the responses have {num} positions"
            expected = f"those of the language model have {self.max_new_tokens}"
            raise OtherLanguageModelError(f"{got} where {expected}")

    def of_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """M rows of token ids as responses `[M, T]`, with an end where there is room."""
        end = int(self.end_ids[0])
        response = torch.full((len(rows), self.max_new_tokens), self.pad_id)
        for number, row in enumerate(rows):
            whole = [*row, end][: self.max_new_tokens]
            response[number, : len(whole)] = torch.tensor(whole)
        return response.to(self.end_ids.device)

    @property
    def num_responses(self) -> int:
        """Number of responses: E (V - E)^t end after t tokens, and (V - E)^T are truncated."""
        num_ends = len(self.end_ids)
        num_words = self.vocab_size - num_ends
        num_ended = num_ends * sum(num_words**t for t in range(self.max_new_tokens))
        return num_ended + num_words**self.max_new_tokens

    def check_enumerable(self) -> None:
        """Raise a `NotEnumerableError` if there are more than a million responses."""
        if self.num_responses > MAX_ENUMERABLE:
            raise NotEnumerableError(
                f"{self.vocab_size} token ids and {self.max_new_tokens} positions make "
                f"{self.num_responses:.3g} responses, too many to enumerate (at most "
                f"{MAX_ENUMERABLE:,}). Use the estimates of `inference.diagnostics`"
            )

    def enumerate(self) -> Tensor:
        """Every response once, `[S, T]`; a `NotEnumerableError` above a million."""
        self.check_enumerable()
        ids = torch.arange(self.vocab_size, device=self.end_ids.device)[:, None]
        alive, ended = ids.new_zeros(1, 0), []
        for t in range(self.max_new_tokens):
            prefixes, tokens = alive.repeat_interleave(len(ids), 0), ids.repeat(len(alive), 1)
            extended = torch.cat([prefixes, tokens], 1)
            is_ended = torch.isin(extended[:, -1], self.end_ids)
            num_missing = self.max_new_tokens - t - 1
            ended.append(pad(extended[is_ended], (0, num_missing), value=self.pad_id))
            alive = extended[~is_ended]
        return torch.cat([*ended, alive])


def _differ(vocabulary: str | None, other: str | None) -> bool:
    return vocabulary is not None and other is not None and vocabulary != other
